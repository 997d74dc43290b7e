"""Compiled weighted sums in float32, every product and addition rounded once together (a fused multiply-add).

LLVM makes the processor's own instruction of it, or a call of the C library's `fmaf`: the same bits either way.
"""

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_STRIP = 4096  # entries whose sums stay in the nearest cache


@intrinsic
def _fma(typingctx, a, b, c):
    """A · b + c, rounded once; float32."""

    def build(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), build


@_jit
def _add(total, coefficient, x):
    for i in range(x.size):
        total[i] = _fma(coefficient, x[i], total[i])


@_jit
def _divide(total, divisor, out):
    for i in range(out.size):
        out[i] = np.float64(total[i] / divisor)


@_jit
def fused_sum(x, coefficients, divisor, out):
    """The weighted sum of rows (task, n), in their order and from 0, over the divisor; all of it in float32."""
    total = np.empty(_STRIP, np.float32)
    for at in range(0, out.size, _STRIP):
        stop = min(at + _STRIP, out.size)
        total[:] = np.float32(0.0)
        for t in range(x.shape[0]):
            _add(total, coefficients[t], x[t, at:stop])
        _divide(total, divisor, out[at:stop])
