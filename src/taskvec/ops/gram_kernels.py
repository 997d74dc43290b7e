"""The compiled loops behind the Gram matrices of rows and columns."""

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_STEP = 1024  # entries whose sum LLVM may order as its vector registers like: always the same for the same length


@_jit
def column_grams(x, out):
    columns = out.shape[2]
    for a in range(x.shape[0]):
        for b in range(a, x.shape[0]):
            for start in range(0, x.shape[1], columns):
                for j in range(columns):
                    out[a, b, j] += np.float64(x[a, start + j]) * np.float64(x[b, start + j])
            out[b, a] = out[a, b]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def products(x, y, symmetric, out):
    """`out += x @ y.T` in float64, tiles of 2 x 4 products at a time; `symmetric` leaves out those below the diagonal.

    A product depends on its two rows alone: not on the other rows, nor on their order.
    """
    rows, columns = x.shape[0], y.shape[0]
    for start in range(0, x.shape[1], _STEP):
        stop = min(start + _STEP, x.shape[1])
        for a in range(0, rows, 2):
            b = min(a + 1, rows - 1)
            u, v = x[a, start:stop], x[b, start:stop]
            for c in range(a if symmetric else 0, columns, 4):
                d, e, f = min(c + 1, columns - 1), min(c + 2, columns - 1), min(c + 3, columns - 1)
                p, q, r, s = y[c, start:stop], y[d, start:stop], y[e, start:stop], y[f, start:stop]
                up = uq = ur = us = vp = vq = vr = vs = 0.0
                for i in range(stop - start):
                    left, right = np.float64(u[i]), np.float64(v[i])
                    first, second = np.float64(p[i]), np.float64(q[i])
                    third, fourth = np.float64(r[i]), np.float64(s[i])
                    up += left * first
                    uq += left * second
                    ur += left * third
                    us += left * fourth
                    vp += right * first
                    vq += right * second
                    vr += right * third
                    vs += right * fourth
                sums = ((up, uq, ur, us), (vp, vq, vr, vs))
                for i in range(b - a + 1):
                    for j in range(min(4, columns - c)):
                        out[a + i, c + j] += sums[i][j]


@_jit
def symmetric_products(x, out):
    products(x, x, True, out)
    for a in range(x.shape[0]):
        for b in range(a):
            out[a, b] = out[b, a]


@_jit
def row_grams(x, inner, out):
    for r in range(out.shape[0]):
        part = x[:, r * inner : (r + 1) * inner]
        symmetric_products(part, out[r])
