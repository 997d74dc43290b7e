import numpy as np

from oracles import by_matrix

SETTINGS = [{}, {"tolerance": 1e-3}]


def reference(stacks, *, tolerance):
    def merge(x):
        u, s, vh = np.linalg.svd(x.sum(0), full_matrices=False)
        kept = s > tolerance * np.sqrt(np.sum(x**2))
        return s[kept].sum() / min(x.shape[1:]) * u[:, kept] @ vh[kept]

    return by_matrix(stacks, merge)
