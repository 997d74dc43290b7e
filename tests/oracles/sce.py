import numpy as np

from oracles import elect, kept

SETTINGS = [
    {},
    {"density": 0.1},
    {"density": 0.5, "select": "weights"},
    {"dialect": "mergekit"},
    {"dialect": "mergekit", "density": 0.3},
]


def selected(x, density, dialect):
    """The entries of (task, n) that vary most; ties by equal float32 deviations."""
    mean_square = np.mean(x**2, axis=0)
    variance = np.mean((x - np.mean(x, axis=0)) ** 2, axis=0)
    varies = variance > 2.0**-40 * mean_square
    deviation = np.where(varies, np.sqrt(variance), 0.0).astype(np.float32)
    n = int(varies.sum())
    if dialect == "mergekit":
        k = int(density * n)
        return varies & (deviation >= np.sort(deviation)[-k]) if k else np.zeros_like(varies)
    return varies & (deviation >= np.sort(deviation)[-kept(density, n)]) if n else np.ones_like(varies)


def merged(x, density, select, dialect):
    chosen = selected(x, density, dialect) if density < 1 else np.ones(x.shape[1], bool)
    masked = np.where(chosen, x, 0.0)
    squares = np.sum(masked**2, axis=1)
    none = np.sum(squares) / x.shape[1] < 1e-6 if dialect == "mergekit" else np.sum(squares) == 0
    share = np.full(len(x), 1 / len(x)) if none else squares / np.sum(squares)
    d = masked if select == "deltas" else x
    sign = np.where(np.sum(d, 0) >= 0, 1.0, -1.0) if dialect == "mergekit" else elect(d)
    agrees = (np.sign(d) == sign) & (d != 0)
    divisor = np.sum(share[:, None] * agrees, 0)
    divisor = np.maximum(divisor, 1e-6) if dialect == "mergekit" else np.where(divisor > 0, divisor, 1.0)
    return np.sum(share[:, None] * d * agrees, 0) / divisor


def reference(stacks, *, density, select, dialect):
    out = {}
    for name, x in stacks.items():
        rows = x.reshape(len(x), -1)
        flat = merged(rows, density, select, dialect) if rows.size else np.zeros(0)
        out[name] = flat.reshape(x.shape[1:])
    return out
