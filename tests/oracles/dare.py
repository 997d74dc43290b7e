import numpy as np

from oracles import drawn, per_task

SETTINGS = [
    {},
    {"density": 1.0},
    {"density": [0.3, 0.9], "seed": 5},
    {"density": 0.1, "coefficients": [0.5, -2.0, 0.0]},
]


def dropped(x, name, seed, density):
    d = per_task(density, x)
    return np.where(drawn(seed, name, x) < d, x / d, 0.0)


def reference(stacks, *, density, coefficients, seed):
    return {n: (per_task(coefficients, x) * dropped(x, n, seed, density)).sum(0) for n, x in stacks.items()}
