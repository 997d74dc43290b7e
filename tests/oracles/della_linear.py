import math

import numpy as np

from oracles import drawn, l1_rescaled, per_task

SETTINGS = [
    {},
    {"epsilon": 0.0},
    {"density": 1.0, "epsilon": 0.9},
    {"density": [0.3, 0.9], "epsilon": 0.1, "coefficients": [0.5, -2.0], "seed": 4},
    {"dialect": "mergekit", "density": 0.5},
    {"dialect": "mergekit", "density": 0.5, "normalize": True, "coefficients": [1.0, 3.0]},
    {"dialect": "mergekit", "density": 0.5, "rescale": False},
]


def row_probabilities(row, d, epsilon):
    m = len(row)
    if d == 1.0 or m == 1:
        return np.full(m, d)
    p = np.empty(m)
    for rank, i in enumerate(sorted(range(m), key=lambda i: abs(row[i]))):
        p[i] = d - epsilon + 2 * epsilon * rank / (m - 1)
    return p


def probabilities(x, d, epsilon, dialect):
    """Of one task's tensor; rows are slices of the first axis, in mergekit's dialect they run along the second."""
    if not x.size:
        return x
    if dialect == "mergekit" and x.ndim > 2:
        lines = np.moveaxis(x, 1, -1)
        p = np.stack([row_probabilities(r, d, epsilon) for r in lines.reshape(-1, x.shape[1])])
        return np.moveaxis(p.reshape(lines.shape), -1, 1)
    m = math.prod(x.shape[1:]) if x.ndim > 1 else x.size
    return np.stack([row_probabilities(r, d, epsilon) for r in x.reshape(-1, m)]).reshape(x.shape)


def dropped(name, x, *, density, epsilon, seed, dialect, rescale):
    p = np.stack([probabilities(row, d, epsilon, dialect) for row, d in zip(x, density, strict=True)])
    stays = np.where(drawn(seed, name, x) < p, x, 0.0)
    if dialect == "mergekit":
        return l1_rescaled(stays, x) if rescale else stays
    return stays / np.where(p == 0, 1.0, p)


def reference(stacks, *, density, epsilon, seed, dialect, coefficients, normalize, rescale):
    options = {"density": density, "epsilon": epsilon, "seed": seed, "dialect": dialect, "rescale": rescale}
    divisor = sum(coefficients) if normalize else 1.0
    return {n: (per_task(coefficients, x) * dropped(n, x, **options)).sum(0) / divisor for n, x in stacks.items()}
