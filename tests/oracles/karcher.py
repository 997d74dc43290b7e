"""The dense iteration, on unit vectors."""

import math

import numpy as np

SETTINGS = [{}, {"max_iter": 1}, {"dialect": "mergekit"}]
RTOL = 1e-5


def mean_direction(units, max_iter, tol, dialect):
    m = units.mean(0)
    length = np.linalg.norm(m)
    if length <= (tol if dialect == "mergekit" else 2.0**-20):
        if dialect == "paper":
            return None
        m, length = units[0], 1.0
    m = m / length
    for _ in range(max_iter):
        tangent = np.zeros_like(m)
        for u in units:
            cosine = np.clip(u @ m, -1, 1)
            if 1 - cosine**2 > 2.0**-40:
                angle = math.acos(cosine)
                tangent += angle / math.sin(angle) * (u - cosine * m) / len(units)
        step = np.linalg.norm(tangent)
        if step < tol:
            break
        m = math.cos(step) * m + math.sin(step) * tangent / step
        m = m / np.linalg.norm(m)
    return m


def reference(stacks, *, max_iter, tol, dialect):
    out = {}
    for name, x in stacks.items():
        rows = x.reshape(len(x), -1)
        norms = np.linalg.norm(rows, axis=1)
        used = norms > (tol if dialect == "mergekit" else 0)
        merged = np.zeros(rows.shape[1])
        if used.any():
            m = mean_direction(rows[used] / norms[used, None], max_iter, tol, dialect)
            merged = rows.mean(0) if m is None else m * norms.mean()
        out[name] = merged.reshape(x.shape[1:])
    return out
