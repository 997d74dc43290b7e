import numpy as np

SETTINGS = [
    {},
    {"coefficients": [0.5, 2.0, 0.25]},
    {"coefficients": [1.0, -0.5], "normalize": False},
    {"coefficients": [0.3, 0.7], "dialect": "mergekit"},
    {"coefficients": [0.3, 0.1], "dialect": "mergekit", "normalize": False},
]


def reference(stacks, *, coefficients, normalize, dialect):
    kind = np.float32 if dialect == "mergekit" else np.float64
    out = {}
    for name, x in stacks.items():
        total, divisor = np.zeros(x.shape[1:], kind), kind(0)
        for c, row in zip(coefficients, x, strict=True):
            total = total + kind(c) * row.astype(kind)
            divisor = divisor + kind(c)
        out[name] = total / divisor if normalize else total
    return out
