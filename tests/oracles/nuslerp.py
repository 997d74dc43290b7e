import math

import numpy as np

SETTINGS = [
    {},
    {"coefficients": [1.0, 3.0]},
    {"coefficients": [1.0, 3.0], "angles": "row"},
    {"coefficients": [3.0, 1.0], "angles": "column"},
    {"coefficients": [1.0, 3.0], "dialect": "mergekit"},
]


def on_the_arc(a, b, t, dialect):
    norms = np.linalg.norm(a), np.linalg.norm(b)
    straight = 2.0**-40
    if dialect == "mergekit":
        norms, straight = (max(norms[0], 1e-7), max(norms[1], 1e-7)), 1e-16
    if min(norms) == 0:
        return (1 - t) * a + t * b
    cosine = np.clip(np.sum(a / norms[0] * (b / norms[1])), -1, 1)
    if 1 - cosine**2 <= straight:
        return (1 - t) * a + t * b
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def reference(stacks, *, coefficients, angles, dialect):
    t = coefficients[1] / sum(coefficients)
    out = {}
    for name, (a, b) in stacks.items():
        merged = np.zeros_like(a)
        if a.size and (angles == "tensor" or a.ndim < 2):
            merged = on_the_arc(a, b, t, dialect)
        elif a.size:
            axis = -1 if angles == "row" else 0
            rest = np.delete(np.array(a.shape), axis)
            for at in np.ndindex(*rest):
                index = [*at, slice(None)] if angles == "row" else [slice(None), *at]
                merged[tuple(index)] = on_the_arc(a[tuple(index)], b[tuple(index)], t, dialect)
        out[name] = merged
    return out
