import math

import numpy as np

from oracles import agree_mean, elect, flat, kept, peft_vote, top, unflat, weighted_vote

SETTINGS = [
    {},
    {"density": 1.0},
    {"density": [0.1, 0.5]},
    {"aggregate": "sum"},
    {"aggregate": "max"},
    {"dialect": "mergekit", "density": 0.3, "coefficients": [0.5, -0.25, 1.0]},
    {"dialect": "mergekit", "normalize": False, "coefficients": 0.5},
    {"dialect": "peft", "density": 0.5, "coefficients": [1.0, 2.0, -0.5]},
    {"dialect": "peft", "density": 0.5, "majority": "frequency"},
]


def reference(stacks, *, density, aggregate, dialect, coefficients, normalize, majority):
    if dialect != "paper":
        least = 1 if dialect == "mergekit" else 0
        rows = {n: trimmed_tensor(x, density, least) for n, x in stacks.items()}
        if dialect == "mergekit":
            return {n: weighted_vote(x, coefficients, normalize=normalize) for n, x in rows.items()}
        return {n: peft_vote(x, coefficients, majority=majority) for n, x in rows.items()}
    whole = flat(stacks)
    trimmed = np.stack([top(tau, kept(d, tau.size)) for tau, d in zip(whole, density, strict=True)])
    agrees = np.where((np.sign(trimmed) == elect(trimmed)), trimmed, 0.0)
    merged = {
        "mean": agree_mean(trimmed),
        "sum": agrees.sum(0),
        "max": elect(trimmed) * np.abs(agrees).max(0),
    }
    return unflat(merged[aggregate], stacks)


def trimmed_tensor(x, density, least):
    if not x[0].size:
        return x
    return np.stack([top(d, max(least, math.floor(q * d.size))) for d, q in zip(x, density, strict=True)])
