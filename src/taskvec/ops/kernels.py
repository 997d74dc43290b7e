"""The compiled loops behind `bits`: decode, combine and encode bit patterns, one pass, nothing allocated.

`p` is the tuple that `bits` makes of a dtype (see `parameters` there). Arrays are flat and of unsigned integers;
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
        # subnormals included. Non-finite codes become numbers above the largest one; make them Inf and NaN.
        value = np.uint64(magnitude << np.uint64(p[0])).view(np.float64) * p[1]
        sign = 1.0 - 2.0 * np.float64(wide >> np.uint64(top))
        value = np.inf if magnitude == np.uint64(p[8]) else value
        bad = magnitude > np.uint64(p[2]) and magnitude != np.uint64(p[8])
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
    if pt[0] == 45 and pb[0] == 45:  # both bfloat16, by far the most common: the upper half of a float32
        for i in range(tuned.size):
            a = np.uint32(np.uint32(tuned[i]) << np.uint32(16)).view(np.float32)
            b = np.uint32(np.uint32(base[i]) << np.uint32(16)).view(np.float32)
            total[i] += coefficient * (np.float64(a) - np.float64(b))
        return
    for i in range(tuned.size):
        total[i] += coefficient * (_decode(tuned[i], pt) - _decode(base[i], pb))


@_jit
def difference32(tuned, pt, base, pb, out):
    """`out = tuned - base` rounded to float32; how many results are not finite."""
    bad = np.int64(0)
    if pt[0] == 45 and pb[0] == 45:  # as in axpy_difference
        for i in range(tuned.size):
            a = np.uint32(np.uint32(tuned[i]) << np.uint32(16)).view(np.float32)
            b = np.uint32(np.uint32(base[i]) << np.uint32(16)).view(np.float32)
            v = np.float32(np.float64(a) - np.float64(b))
            out[i] = v
            bad += np.int64(v.view(np.uint32) & np.uint32(0x7F800000) == np.uint32(0x7F800000))
        return bad
    for i in range(tuned.size):
        v = np.float32(_decode(tuned[i], pt) - _decode(base[i], pb))
        out[i] = v
        bad += np.int64(v.view(np.uint32) & np.uint32(0x7F800000) == np.uint32(0x7F800000))
    return bad


@_jit
def displace(base, pb, delta, out, po, keep):
    bad = 0
    for i in range(base.size):
        b = _decode(base[i], pb)
        code = _encode(b if delta[i] == 0.0 else b + delta[i], out[i], po)  # -0.0 + 0.0 would lose the sign
        out[i] = base[i] if keep and delta[i] == 0.0 else code
        back = _decode(out[i], po)
        bad += 0 if back - back == 0.0 else 1
    return bad


@_jit
def difference(base, pb, tuned, pt, delta, pd, wrong, keep):
    overflow = 0
    nonfinite = 0
    for i in range(base.size):
        b = _decode(base[i], pb)
        d = _decode(tuned[i], pt) - b
        finite = d - d == 0.0
        nonfinite += 0 if finite else 1
        code = _encode(d if finite else 0.0, delta[i], pd)
        back = _decode(code, pd)
        overflow += 0 if back - back == 0.0 else 1
        delta[i] = code
        again = _encode(b if back == 0.0 else b + back, tuned[i], pt)
        wrong[i] = (tuned[i] ^ base[i] if keep and back == 0.0 else tuned[i] ^ again) != 0
    return overflow, nonfinite


@_jit
def count_nonfinite(x, p):
    bad = 0
    if p[0] == 45:  # as in axpy_difference
        for i in range(x.size):
            bad += np.int64(np.uint16(x[i]) & np.uint16(0x7F80) == np.uint16(0x7F80))
        return bad
    for i in range(x.size):
        v = _decode(x[i], p)
        bad += 0 if v - v == 0.0 else 1
    return bad


@_jit
def quantize(x, group, limit, p, codes, scales):
    """Symmetric codes in [-limit, limit] a group; the scale is rounded UP to its dtype, so no code is clipped."""
    error = 0.0
    for g in range(scales.size):
        stop = min((g + 1) * group, x.size)
        largest = 0.0
        for i in range(g * group, stop):
            largest = max(largest, abs(x[i]))
        scales[g] = _encode(largest / limit, scales[g], p)
        if _decode(scales[g], p) * limit < largest:
            scales[g] += 1
        scale = _decode(scales[g], p)
        for i in range(g * group, stop):
            codes[i] = np.int8(np.rint(x[i] / scale)) if scale > 0.0 else np.int8(0)
            rest = x[i] - codes[i] * scale
            error += rest * rest
    return error


@_jit
def axpy_quantized(total, coefficient, codes, scales, p, group, start):
    """`start` is the position of codes[0] in the tensor; scales cover the whole tensor."""
    for i in range(total.size):
        total[i] += coefficient * (codes[i] * _decode(scales[(start + i) // group], p))


@_jit
def axpy_nibbles(total, coefficient, packed, scales, p, group, start):
    """Two 4-bit codes a byte, offset by 8, the even position in the low half; packed covers the whole tensor."""
    for i in range(total.size):
        at = start + i
        code = np.int64((packed[at >> 1] >> (4 * (at & 1))) & 15) - 8
        total[i] += coefficient * (code * _decode(scales[at // group], p))


@_jit
def _key(x, mask):
    bits = np.float32(np.float32(x) + np.float32(0.0)).view(np.int32) & mask  # -0.0 becomes 0.0
    return np.uint32(bits ^ ((bits >> np.int32(31)) | np.int32(-0x80000000)))


@_jit
def _upper_halves(x, mask, out):
    for i in range(x.size):
        out[i] = _key(x[i], mask) >> np.uint32(16)


@_jit
def _lower_halves(x, mask, upper, out):
    """The lower half of each key with this upper half, and a number above all halves for the others."""
    for i in range(x.size):
        key = _key(x[i], mask)
        out[i] = key & np.uint32(0xFFFF) if key >> np.uint32(16) == upper else np.uint32(0x10000)


@_jit
def key_histogram(x, upper, counts, magnitudes=False):
    """Count keys by their upper half (`upper` is -1), or by the lower half of those whose upper half is `upper`.

    The keys are those of the numbers, or of their magnitudes.
    """
    mask = np.int32(0x7FFFFFFF) if magnitudes else np.int32(-1)
    halves, found = np.empty(1024, np.uint32), np.empty(1024, np.uint32)
    for start in range(0, x.size, 1024):
        part = x[start : start + 1024]
        if upper < 0:
            _upper_halves(part, mask, halves)
            for i in range(part.size):
                counts[halves[i]] += 1
            continue
        _lower_halves(part, mask, np.uint32(upper), halves)
        n = 0
        for i in range(part.size):
            found[n] = halves[i]
            n += np.int64(halves[i] < np.uint32(0x10000))
        for i in range(n):
            counts[found[i]] += 1
    if upper < 0:
        counts[:0x7F] = 0  # NaN does not count
        counts[0xFF81:] = 0


@_jit
def read32(x, p, out):
    """`out` = the values of x rounded to float32; how many results are not finite."""
    bad = np.int64(0)
    if p[0] == 45:  # as in axpy_difference
        for i in range(x.size):
            pattern = np.uint32(np.uint32(x[i]) << np.uint32(16))
            out[i] = pattern.view(np.float32)
            bad += np.int64(pattern & np.uint32(0x7F800000) == np.uint32(0x7F800000))
        return bad
    for i in range(x.size):
        v = np.float32(_decode(x[i], p))
        out[i] = v
        bad += np.int64(v.view(np.uint32) & np.uint32(0x7F800000) == np.uint32(0x7F800000))
    return bad


@_jit
def select(x, threshold, positions, values):
    """Positions and float32 values of the non-zero entries whose float32 magnitude pattern reaches `threshold`."""
    n = 0
    for i in range(x.size):
        value = np.float32(x[i])
        pattern = np.float32(abs(value)).view(np.uint32)
        if pattern >= threshold and pattern > 0:
            positions[n] = i
            values[n] = value
            n += 1
    return n


@_jit
def axpy_product(total, coefficient, left, right, start):
    """Entries from `start` of the flattened left @ right; each is one sum over the rank, in order."""
    sums = np.empty(512)
    rank, n = right.shape
    at = 0
    while at < total.size:
        i, j = divmod(start + at, n)
        width = min(n - j, total.size - at, sums.size)
        sums[:width] = 0.0
        for k in range(rank):
            factor = left[i, k]
            for q in range(width):
                sums[q] += factor * right[k, j + q]
        for q in range(width):
            total[at + q] += coefficient * sums[q]
        at += width
