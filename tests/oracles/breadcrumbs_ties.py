import numpy as np

from oracles import elect, weighted_vote
from oracles.breadcrumbs import bands

SETTINGS = [
    {},
    {"density": 0.4, "gamma": 0.2},
    {"density": 0.4, "gamma": 0.2, "scope": "row"},
    {"dialect": "mergekit", "density": 0.6, "gamma": 0.1, "coefficients": [0.5, -1.0, 2.0]},
    {"dialect": "mergekit", "density": 0.6, "gamma": 0.1, "coefficients": [0.5, 1.0, 2.0], "normalize": True},
]


def reference(stacks, *, density, gamma, scope, dialect, coefficients, normalize):
    out = {}
    for name, x in stacks.items():
        rows = bands(x, density, gamma, scope, dialect)
        if dialect == "mergekit":
            out[name] = weighted_vote(rows, coefficients, normalize=normalize)
        else:
            out[name] = np.where(np.sign(rows) == elect(rows), rows, 0.0).sum(0)
    return out
