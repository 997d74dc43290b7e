"""What `kernels` does to entries of any dtype, for bf16 alone: several entries at a time.

The difference of two bf16 models is computed in float32; it gives what `kernels.difference` gives in float64. Sums and
differences of two bf16 numbers are exact in float32 while their exponents are at most 15 apart. Further apart, the
smaller one is less than 2^-15 of the larger, far below half a bf16 step of it, so both routes round to the larger one.
Overflow and subnormals agree, since the two types share their exponents.
"""

import numba
import numpy as np

from taskvec.ops.kernels import displace

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_STRIP = 1024
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


@_jit
def _displace_normal(base, delta, out):
    """Base + delta rounded once, where that is 0 or a normal number for all; whether it is not."""
    other = np.int64(0)
    for i in range(base.size):
        before = np.uint32(base[i]) << np.uint32(16)
        pattern = np.int64(np.float64(np.float64(np.uint32(before).view(np.float32)) + delta[i]).view(np.int64))
        magnitude = pattern & np.int64(0x7FFFFFFFFFFFFFFF)
        half = np.int64((1 << 44) - 1) + ((magnitude >> np.int64(45)) & np.int64(1))
        code = ((magnitude + half) >> np.int64(45)) - np.int64(896 << 7)  # ties to even; 896: the biases' difference
        still = delta[i] == 0.0
        code = np.int64(base[i] & np.uint16(0x7FFF)) if still else code
        low = np.int64(0) if still else np.int64(0x80)
        other |= np.int64(code < low) | np.int64(code > np.int64(0x7F7F))
        sign = np.int64(base[i]) if still else pattern >> np.int64(48)
        out[i] = np.uint16(code | (sign & np.int64(0x8000)))
    return other


@_jit
def displace_bfloat16(base, p, delta, out):
    """As `kernels.displace`: strips of normal numbers fast, the others as there."""
    bad = np.int64(0)
    for start in range(0, base.size, _STRIP):
        stop = min(start + _STRIP, base.size)
        if _displace_normal(base[start:stop], delta[start:stop], out[start:stop]) != 0:
            bad += displace(base[start:stop], p, delta[start:stop], out[start:stop], p, True)
    return bad
