import numpy as np

import oracles
from oracles import by_matrix

SETTINGS = [
    {},
    {"density": 0.6, "aggregate": "sum"},
    {"method": "task_arithmetic", "coefficients": [1.0, -0.5]},
    {"method": "average", "transpose": True},
    {"method": "magmax"},
]


def reference(stacks, *, method, transpose, tolerance, **given):
    def merge(x):
        x = x.transpose(0, 2, 1) if transpose else x
        u, s, vh = np.linalg.svd(np.concatenate(list(x), axis=1), full_matrices=False)
        kept = s > tolerance * s[0]
        if not kept.any() or not s[0]:
            return np.zeros(x.shape[1:][::-1] if transpose else x.shape[1:])
        c = np.stack(np.split(s[kept, None] * vh[kept], len(x), axis=1))
        c[np.abs(c) <= 2.0**-40 * np.abs(c).max()] = 0.0
        merged = u[:, kept] @ oracles.load(method).reference({"c": c.astype(np.float32).astype(float)}, **given)["c"]
        return merged.T if transpose else merged

    return by_matrix(stacks, merge)
