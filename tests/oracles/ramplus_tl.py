import numpy as np

SETTINGS = [
    {},
    {"epsilon": 0.6, "r": 0.5, "alpha": 2.0},
    {"dialect": "mergekit"},
    {"dialect": "mergekit", "epsilon": 0.6, "r": 0.5},
]


def boosts(active, r, alpha):
    number = active.sum(0)
    found = []
    for row in active:
        unique, shared = np.sum(row & (number == 1)), np.sum(row & (number >= 2))
        found.append(1.0 if unique == 0 else 1.0 + r * min(shared / unique, alpha))
    return np.array(found)


def reference(stacks, *, epsilon, r, alpha, dialect):
    active = {name: np.abs(x).reshape(len(x), -1) > epsilon for name, x in stacks.items()}
    whole = boosts(np.concatenate(list(active.values()), axis=1), r, alpha)
    out = {}
    for name, x in stacks.items():
        factors = whole if dialect == "paper" else boosts(active[name], r, alpha)
        rows, number = x.reshape(len(x), -1) * active[name], active[name].sum(0)
        unique = np.sum(factors[:, None] * rows, axis=0)
        out[name] = np.where(number == 1, unique, rows.sum(0) / np.maximum(number, 1)).reshape(x.shape[1:])
    return out
