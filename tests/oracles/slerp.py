import math

import numpy as np

SETTINGS = [{"t": 0.3}, {"t": 0.0}, {"t": 1.0}, {"t": 0.5, "dialect": "mergekit"}]


def on_the_arc(a, b, t, *, floor=0.0):
    norms = np.linalg.norm(a), np.linalg.norm(b)
    if min(norms) <= floor:
        return (1 - t) * a + t * b
    cosine = np.sum(a / norms[0] * (b / norms[1]))
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def reference(stacks, *, t, dialect):
    floor = 1e-8 if dialect == "mergekit" else 0.0
    return {name: on_the_arc(x[0], x[1], t, floor=floor) if x.size else x[0] for name, x in stacks.items()}
