import numpy as np

from oracles import drawn, l1_rescaled, per_task

SETTINGS = [
    {},
    {"density": [0.3, 0.9], "coefficients": [0.5, 2.0], "seed": 3},
    {"dialect": "peft", "density": 0.5},
    {"dialect": "mergekit", "density": 0.5},
    {"dialect": "mergekit", "density": 1.0, "normalize": True, "coefficients": [1.0, 2.0]},
    {"dialect": "mergekit", "density": 0.4, "normalize": True, "coefficients": [1.0, 2.0]},
    {"dialect": "mergekit", "density": 0.5, "rescale": False},
]


def reference(stacks, *, density, coefficients, seed, dialect, normalize, rescale):
    out = {}
    for name, x in stacks.items():
        stays = np.where(drawn(seed, name, x) < per_task(density, x), x, 0.0)
        rows = stays if dialect == "mergekit" else stays / per_task(density, x)
        if dialect == "mergekit" and rescale:
            rows = l1_rescaled(stays, x)
        divisor = sum(coefficients) if normalize else 1.0
        out[name] = (per_task(coefficients, x) * rows).sum(0) / divisor
    return out
