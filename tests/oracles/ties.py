import numpy as np

from oracles import agree_mean, elect, flat, kept, top, unflat

SETTINGS = [{}, {"density": 1.0}, {"density": [0.1, 0.5]}, {"aggregate": "sum"}, {"aggregate": "max"}]


def reference(stacks, *, density, aggregate):
    whole = flat(stacks)
    trimmed = np.stack([top(tau, kept(d, tau.size)) for tau, d in zip(whole, density, strict=True)])
    agrees = np.where((np.sign(trimmed) == elect(trimmed)), trimmed, 0.0)
    merged = {
        "mean": agree_mean(trimmed),
        "sum": agrees.sum(0),
        "max": elect(trimmed) * np.abs(agrees).max(0),
    }
    return unflat(merged[aggregate], stacks)
