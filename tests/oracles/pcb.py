import numpy as np

from oracles import flat, unflat

SETTINGS = [{}, {"density": 0.5, "clip": 0.1}, {"density": [0.2, 1.0], "clip": 0.0, "coefficients": [1.0, 0.5, -2.0]}]
RTOL = 1e-5  # scores are compared as float32 numbers


def competing(tau, clip):
    """The clipped magnitudes, and these from 0 to 1 with their signs."""
    size = tau.shape[1]
    b, y = np.empty_like(tau), np.empty_like(tau)
    for t, row in enumerate(tau):
        order = np.sort(np.abs(row))
        low, high = order[int(size * clip)], order[max(int(size * (1 - clip) - 1), 0)]
        b[t] = np.clip(np.abs(row), low, high)
        g = (b[t] - low) / (high - low) if high > low else (row != 0).astype(float)
        y[t] = np.sign(row) * g
    return b, y


def reference(stacks, *, density, clip, coefficients):
    tau = flat(stacks)
    tasks, size = tau.shape
    if not size:
        return unflat(np.zeros(0), stacks)
    b, y = competing(tau, clip)
    above, below = np.zeros(size), np.zeros(size)
    for t in range(tasks):
        pulls = np.array([np.tanh(y[t] * y[s]) for s in range(tasks)])
        inter = np.sum(pulls, 0)
        inter[np.abs(inter) <= 2.0**-40 * np.sum(np.abs(pulls), 0)] = 0.0
        beta = (np.exp(tasks * (y[t] ** 2 - 1)) * inter).astype(np.float32).astype(np.float64)
        bar = np.sort(beta)[min(int(size * (1 - density[t])), size - 1)]
        top = beta.max()
        w = np.clip((beta - bar) / (top - bar), 0, 1) if top > bar else ((beta == top) & (beta > 0)).astype(float)
        above += w * coefficients[t] * np.sign(tau[t]) * b[t]
        below += w
    return unflat(above / np.maximum(below, 1e-12), stacks)
