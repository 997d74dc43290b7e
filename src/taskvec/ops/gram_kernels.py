"""The compiled loops behind the Gram matrices of rows and columns."""

import numba
import numpy as np

from taskvec.ops.kernels import gram

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@_jit
def row_grams(x, inner, out):
    for r in range(out.shape[0]):
        gram(x[:, r * inner : (r + 1) * inner], out[r])


@_jit
def column_grams(x, out):
    columns = out.shape[2]
    for a in range(x.shape[0]):
        for b in range(a, x.shape[0]):
            for start in range(0, x.shape[1], columns):
                for j in range(columns):
                    out[a, b, j] += np.float64(x[a, start + j]) * np.float64(x[b, start + j])
            out[b, a] = out[a, b]
