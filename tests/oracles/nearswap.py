import numpy as np

SETTINGS = [{"t": 0.5}, {"t": 1e-4}, {"t": 1e-9}]


def reference(stacks, *, t):
    out = {}
    for name, (base, other) in stacks.items():
        share = np.minimum(t / np.maximum(np.abs(base - other), 1e-6), 1.0)
        out[name] = share * other + (1 - share) * base
    return out
