"""The compiled loops behind `bits`: decode, combine and encode bit patterns, one pass, nothing allocated.

`p` is the tuple that `bits` makes of a dtype (see `_parameters` there). Arrays are flat and of unsigned integers;
their width picks the code at compile time: 64 and 32 bits are float64 and float32, 16 and 8 the generic small format.
"""

import numba
import numpy as np
from numba.extending import overload

# --- scalars -----------------------------------------------------------------------------------------------------


def _decode(x, p):  # pragma: no cover - replaced by the overload below
    raise AssertionError


def _encode(y, like, p):  # pragma: no cover - replaced by the overload below
    raise AssertionError


@overload(_decode)
def _decode_overload(x, p):
    if x == numba.types.uint64:
        return lambda x, p: np.uint64(x).view(np.float64)
    if x == numba.types.uint32:
        return lambda x, p: np.float64(np.uint32(x).view(np.float32))
    top = 15 if x == numba.types.uint16 else 7

    def small(x, p):
        wide = np.uint64(x)
        magnitude = wide & np.uint64((1 << top) - 1)
        # As a float64 the shifted code has the right mantissa and a small exponent: one product rebiases it,
        # subnormals included. Non-finite codes become numbers above the largest one; make them NaN.
        value = np.uint64(magnitude << np.uint64(p[0])).view(np.float64) * p[1]
        sign = 1.0 - 2.0 * np.float64(wide >> np.uint64(top))
        bad = magnitude > np.uint64(p[2])
        if p[7] == 0:
            bad = wide == np.uint64(p[5])
        return np.nan if bad else sign * value

    return small


@overload(_encode)
def _encode_overload(y, like, p):
    if like == numba.types.uint64:
        return lambda y, like, p: np.float64(y).view(np.uint64)
    if like == numba.types.uint32:
        return lambda y, like, p: np.float32(y).view(np.uint32)
    kind, top = (np.uint16, 15) if like == numba.types.uint16 else (np.uint8, 7)

    def small(y, like, p):
        pattern = np.float64(y).view(np.uint64)
        sign = pattern >> np.uint64(63)
        magnitude = pattern & np.uint64(0x7FFFFFFFFFFFFFFF)
        size = np.uint64(magnitude).view(np.float64)
        drop = np.uint64(p[0])
        half = (np.uint64(1) << (drop - np.uint64(1))) - np.uint64(1)
        rounded = (magnitude + half + ((magnitude >> drop) & np.uint64(1))) >> drop
        code = np.int64(rounded) - (np.int64(1023 - p[6]) << np.int64(52 - p[0]))
        # Adding the magic number rounds to a multiple of the smallest subnormal, in one rounding.
        tiny = np.int64(np.float64(size + p[4]).view(np.uint64)) - np.int64(np.float64(p[4]).view(np.uint64))
        code = tiny if size < p[3] else code
        code = np.int64(p[2]) + 1 if code > np.int64(p[2]) else code
        keep = p[7] == 1 or (code != 0 and code <= np.int64(p[2]))
        code = code | (np.int64(sign) << top if keep else np.int64(0))
        return kind(np.int64(p[5]) if y != y else code)

    return small


# --- kernels -----------------------------------------------------------------------------------------------------

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@_jit
def decode(x, p, out):
    for i in range(x.size):
        out[i] = _decode(x[i], p)


@_jit
def encode(y, p, out):
    for i in range(y.size):
        out[i] = _encode(y[i], out[i], p)


@_jit
def axpy(total, coefficient, x, p):
    for i in range(x.size):
        total[i] += coefficient * _decode(x[i], p)


@_jit
def axpy_difference(total, coefficient, tuned, pt, base, pb):
    for i in range(tuned.size):
        total[i] += coefficient * (_decode(tuned[i], pt) - _decode(base[i], pb))


@_jit
def displace(base, pb, delta, out, po, keep):
    bad = 0
    for i in range(base.size):
        code = _encode(_decode(base[i], pb) + delta[i], out[i], po)
        out[i] = base[i] if keep and delta[i] == 0.0 else code
        back = _decode(out[i], po)
        bad += 0 if back - back == 0.0 else 1
    return bad


@_jit
def difference(base, pb, tuned, pt, delta, pd, wrong, keep):
    overflow = 0
    for i in range(base.size):
        b = _decode(base[i], pb)
        d = _decode(tuned[i], pt) - b
        finite = d - d == 0.0
        code = _encode(d if finite else 0.0, delta[i], pd)
        back = _decode(code, pd)
        overflow += 0 if back - back == 0.0 else 1
        delta[i] = code
        again = tuned[i] ^ base[i] if keep and back == 0.0 else tuned[i] ^ _encode(b + back, tuned[i], pt)
        wrong[i] = again != 0
    return overflow


@_jit
def count_nonfinite(x, p):
    bad = 0
    for i in range(x.size):
        v = _decode(x[i], p)
        bad += 0 if v - v == 0.0 else 1
    return bad
