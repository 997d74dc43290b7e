import numpy as np


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) + 1e-8


def fused(base, other):
    b, o = np.atleast_1d(base), np.atleast_1d(other)
    p, q = softmax(o), softmax(b)
    divergence = np.sum(p * np.log(p / q), axis=-1, keepdims=True)
    importance = (np.abs(o - b) * divergence).astype(np.float32)
    order = np.sort(importance, axis=None).astype(np.float64)
    first, median, third = (order[int(share * (order.size - 1))] for share in (0.25, 0.5, 0.75))
    return np.where(importance >= median + 1.5 * (third - first), o, b).reshape(base.shape)


def reference(stacks):
    return {name: fused(*x) if x.size else np.zeros(x.shape[1:]) for name, x in stacks.items()}
