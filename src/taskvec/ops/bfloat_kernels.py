"""The exact difference of two bf16 models in float32 arithmetic, sixteen entries at a time.

It gives what `kernels.difference` gives in float64. Sums and differences of two bf16 numbers are exact in float32
while their exponents are at most 15 apart. Further apart, the smaller one is less than 2^-15 of the larger, far below
half a bf16 step of it, so both routes round to the larger one. Overflow and subnormals agree, since the two types
share their exponents.
"""

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_SIGN, _EXPONENT = np.uint32(0x80000000), np.uint32(0x7F800000)


@_jit
def _rounded(pattern):
    """The bf16 pattern, in the upper half, nearest to a float32 pattern that is not NaN; ties to even."""
    return (pattern + np.uint32(0x7FFF) + ((pattern >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)


@_jit
def difference_bfloat16(base, tuned, delta, wrong):
    overflow = 0
    nonfinite = 0
    for i in range(base.size):
        b, t = np.uint32(base[i]) << np.uint32(16), np.uint32(tuned[i]) << np.uint32(16)
        before = np.uint32(b).view(np.float32)
        finite = ((b & _EXPONENT) != _EXPONENT) & ((t & _EXPONENT) != _EXPONENT)
        gap = np.float32(np.uint32(t).view(np.float32) - before)
        code = _rounded(np.uint32(gap.view(np.uint32))) if finite else np.uint32(0)
        again = _rounded(np.uint32(np.float32(before + np.uint32(code).view(np.float32)).view(np.uint32)))
        still = (code & ~_SIGN) == np.uint32(0)
        nonfinite += 0 if finite else 1
        overflow += 1 if (code & _EXPONENT) == _EXPONENT else 0
        delta[i] = np.uint16(code >> np.uint32(16))
        wrong[i] = (b if still else again) != t
    return overflow, nonfinite
