import math

import numpy as np

from oracles import kept, per_task

SETTINGS = [
    {},
    {"density": 0.4, "gamma": 0.2, "coefficients": [0.5, -1.0, 2.0]},
    {"density": 0.5, "gamma": 0.5},
    {"density": [0.3, 1.0], "gamma": 0.0},
    {"density": 0.4, "gamma": 0.2, "scope": "row"},
    {"dialect": "mergekit"},
    {"dialect": "mergekit", "density": 0.7, "gamma": 0.5},
    {"dialect": "mergekit", "density": 0.3, "gamma": 0.1, "normalize": True, "coefficients": [1.0, 3.0]},
]


def between(x, first, last):
    """x where its magnitude lies between the first-th and the last-th largest; last 0 keeps nothing."""
    if last < first:
        return np.zeros_like(x)
    size = np.sort(np.abs(x), axis=None)[::-1]
    return np.where((np.abs(x) >= size[last - 1]) & (np.abs(x) <= size[first - 1]), x, 0.0)


def paper_band(x, d, gamma):
    if not x.size:
        return x
    removed = math.floor(gamma * x.size)
    return between(x, removed + 1, removed + min(kept(d, x.size), x.size - removed))


def row_band(x, d, gamma):
    if x.ndim == 0 or not x.size:
        return x
    m = x.shape[-1]
    removed = math.floor(gamma * m)
    count = min(math.floor(d * m), m - removed)
    rows = [between(row, removed + 1, removed + count) for row in x.reshape(-1, m)]
    return np.stack(rows).reshape(x.shape)


def mergekit_band(x, d, gamma):
    if d >= 1 or not x.size:
        return x
    count = math.floor(d * x.size)
    removed = min(math.floor(gamma * x.size), x.size - count)
    return between(x, removed + 1, removed + count if count else 0)


def bands(x, density, gamma, scope, dialect):
    band = mergekit_band if dialect == "mergekit" else row_band if scope == "row" else paper_band
    return np.stack([band(row, d, gamma) for row, d in zip(x, density, strict=True)])


def reference(stacks, *, density, gamma, scope, dialect, coefficients, normalize):
    divisor = sum(coefficients) if normalize else 1.0
    return {
        n: (per_task(coefficients, x) * bands(x, density, gamma, scope, dialect)).sum(0) / divisor
        for n, x in stacks.items()
    }
