import numpy as np

from oracles import by_matrix, polar

SETTINGS = [{}, {"common": 0.5}, {"common": 0.0}, {"common": 1.0}]


def reference(stacks, *, common, tolerance):
    def merge(x):
        tasks, r = len(x), min(x.shape[1:])
        own = min(round((r - int(common * r)) / tasks), r // tasks)
        floor = tolerance * np.sqrt(np.sum(x**2))

        def leading(matrix, k):
            u, s, vh = np.linalg.svd(matrix, full_matrices=False)
            k = min(k, int(np.sum(s > floor)))
            return u[:, :k], s[:k], vh[:k].T

        top = leading(x.sum(0), r - own * tasks)
        parts = [leading(d - top[0] @ top[0].T @ d, own) for d in x] + [top]
        u, s, v = (np.concatenate(side, axis=-1) for side in zip(*parts, strict=True))
        return s.sum() / r * polar(u, tolerance) @ polar(v, tolerance).T

    return by_matrix(stacks, merge)
