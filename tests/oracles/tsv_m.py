import numpy as np

NOISE = 2.0**-20
SETTINGS = [
    {},
    {"coefficients": [0.5, 2.0, -1.0]},
    {"density": 0.1},
    {"orthogonalizer": "none", "density": 0.5},
    {"density": 1.0, "overcomplete": True},
    {"tolerance": 1e-3},
    {"exact": True},
]
RTOL = 1e-5  # the polar factor of vectors that are nearly dependent magnifies rounding


def polar(columns, tolerance):
    """P Qᵀ over the directions above the tolerance."""
    if not columns.size:
        return columns
    p, d, qh = np.linalg.svd(columns, full_matrices=False)
    kept = d > tolerance * d[0]
    return p[:, kept] @ qh[kept]


def top(delta, k):
    """The k largest triplets that are not rounding."""
    u, s, vh = np.linalg.svd(delta, full_matrices=False)
    k = min(k, int(np.sum(s > NOISE * s[0]))) if delta.any() else 0
    return u[:, :k], s[:k], vh[:k].T


def merged(x, density, coefficients, orthogonalizer, tolerance):
    tasks, r = len(x), min(x.shape[1:])
    k = r // tasks if density is None else max(1, int(density * r + 1e-9))
    parts = [top(c * delta, k) for c, delta in zip(coefficients, x, strict=True)]
    u, s, v = (np.concatenate(side, axis=-1) for side in zip(*parts, strict=True))
    if orthogonalizer == "none":
        return u * s @ v.T
    return polar(u, tolerance) * s @ polar(v, tolerance).T


def reference(stacks, *, density, coefficients, orthogonalizer, tolerance, overcomplete, exact):
    out = {}
    for name, x in stacks.items():
        matrix = x.ndim == 3 and min(x.shape[1:]) > 1 and min(x.shape[1:]) >= len(x)
        out[name] = merged(x, density, coefficients, orthogonalizer, tolerance) if matrix else x.mean(0)
    return out
