import numpy as np

from oracles import by_matrix

SETTINGS = [{}, {"density": 0.9}, {"density": 1.0}, {"density": 1e-3}]


def reference(stacks, *, density):
    def cut(delta):
        u, s, vh = np.linalg.svd(delta, full_matrices=False)
        if not s.any():
            return delta
        k = int(np.argmax(np.cumsum(s) >= density * s.sum() * (1 - 2.0**-40))) + 1
        return s.sum() / s[:k].sum() * (u[:, :k] * s[:k]) @ vh[:k]

    return by_matrix(stacks, lambda x: np.mean([cut(delta) for delta in x], axis=0))
