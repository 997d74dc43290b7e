import numpy as np

from oracles import by_matrix

SETTINGS = [{}, {"density": 0.5}, {"density": 1.0}, {"density": 0.5, "scale": -0.5}]


def reference(stacks, *, density, scale):
    def leading(matrix):
        k = max(1, int(density * min(matrix.shape)))
        u, s, vh = np.linalg.svd(matrix, full_matrices=False)
        return (u[:, :k] * s[:k]) @ vh[:k]

    return by_matrix(stacks, lambda x: x.mean(0) + scale * sum(leading(delta - x.mean(0)) for delta in x))
