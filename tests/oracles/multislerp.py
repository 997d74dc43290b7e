import numpy as np

SETTINGS = [
    {},
    {"coefficients": [0.5, 2.0, 1.0]},
    {"coefficients": [0.5, 2.0], "normalize": False},
]


def reference(stacks, *, coefficients, normalize, eps, dialect):
    assert dialect == "paper"
    assert eps == 0
    w = np.array(coefficients)
    w = w / w.sum() if normalize else w
    out = {}
    for name, x in stacks.items():
        rows = x.reshape(len(x), -1)
        norms = np.sqrt(np.sum(rows**2, axis=1))
        units = rows / np.where(norms > 0, norms, 1.0)[:, None]
        mean = w @ units
        length = np.sqrt(np.sum(mean**2))
        cancels = length <= 2.0**-20 * np.sum(np.abs(w))
        out[name] = (w @ rows if cancels else mean / length * (w @ norms)).reshape(x.shape[1:])
    return out
