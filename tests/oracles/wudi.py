import numpy as np

from oracles import by_matrix

SETTINGS = [
    {},
    {"ridge": 0.0},
    {"ridge": 0.5},
    {"transpose": True},
    {"solver": "adam"},
    {"solver": "adam", "steps": 20, "rate": 1e-2},
]


def reference(stacks, *, solver, ridge, steps, rate, transpose):
    def merge(x):
        x = x.transpose(0, 2, 1) if transpose else x
        live = [d for d in x if np.any(d)]
        if not live:
            return (x.sum(0).T if transpose else x.sum(0)) * 0.0
        k = [d.T @ d / np.sum(d * d) for d in live]
        wanted, total = sum(d @ kt for d, kt in zip(live, k, strict=True)), sum(k)
        if solver == "adam":
            m = adam(sum(live), lambda m: 2 * (m @ total - wanted), steps, rate, 2.0**-40 * np.abs(live).max())
        elif ridge:
            eps = ridge * len(live) / len(total)
            m = np.linalg.solve(total + eps * np.eye(len(total)), (wanted + eps * np.mean(live, 0)).T).T
        else:
            # the least-squares problem itself: its normal equations lose half of the digits
            rows = np.concatenate([d / np.linalg.norm(d) for d in live])
            right = np.concatenate([d @ d.T / np.linalg.norm(d) for d in live], 1)
            m = right @ np.linalg.pinv(rows, rcond=1e-6).T
        return m.T if transpose else m

    return by_matrix(stacks, merge)


def adam(m, gradient, steps, rate, noise):
    first, second = 0.0, 0.0
    for step in range(1, steps + 1):
        g = gradient(m)
        g = np.where(np.abs(g) <= noise, 0.0, g)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        m = m - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return m
