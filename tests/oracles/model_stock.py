from itertools import combinations

import numpy as np

SETTINGS = [{}, {"filter_wise": True}, {"dialect": "mergekit"}]
RTOL = 1e-5


def ratio(rows, dialect):
    """t of (task, n)."""
    tasks, found = len(rows), []
    for a, b in combinations(rows, 2):
        norms = np.sqrt(np.sum(a * a) * np.sum(b * b))
        norms = max(norms, 1e-6) if dialect == "mergekit" else norms
        found.append(np.clip(np.sum(a * b) / norms, -1, 1) if norms else 0.0)
    c = np.mean(found)
    if dialect == "mergekit":
        return 0.0 if abs(1 + (tasks - 1) * c) < 1e-6 else tasks * c / (1 + (tasks - 1) * c)
    return tasks * c / (1 + (tasks - 1) * c) if c > 0 else 0.0


def reference(stacks, *, filter_wise, dialect):
    out = {}
    for name, x in stacks.items():
        if not x.size:
            out[name] = np.zeros(x.shape[1:])
        elif filter_wise and x.ndim > 2:
            rows = x.reshape(len(x), -1, x.shape[-1])
            means = [ratio(rows[:, i], dialect) * rows[:, i].mean(0) for i in range(rows.shape[1])]
            out[name] = np.reshape(means, x.shape[1:])
        else:
            out[name] = ratio(x.reshape(len(x), -1), dialect) * x.mean(0)
    return out
