"""The compiled numbers of `random`, and entries dropped by them as they are drawn."""

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_inline = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")


@_inline
def bits53(key, position):
    """53 random bits of a stream at a position; both uint64."""
    z = key + (position + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(11)


@_jit
def uniforms(keys, start, out):
    for t in range(keys.size):
        for i in range(out.shape[1]):
            out[t, i] = np.float64(np.int64(bits53(keys[t], start + np.uint64(i)))) * 2.0**-53


@_jit
def drop_row(x, key, start, threshold, divisor, bar, out):
    """X / divisor where the number drawn is below the threshold and |x| reaches the bar, else 0."""
    for i in range(x.size):
        v = x[i]
        keep = bits53(key, start + np.uint64(i)) < threshold and abs(v) >= bar
        out[i] = np.float64(v) / divisor if keep else 0.0


@_jit
def mask_rows(x, keys, start, thresholds, out):
    """X where the number drawn is below the threshold, else 0."""
    for t in range(keys.size):
        key, threshold = keys[t], thresholds[t]
        for i in range(x.shape[1]):
            out[t, i] = x[t, i] if bits53(key, start + np.uint64(i)) < threshold else np.float32(0.0)


@_jit
def l1_norms(x):
    """The sum of magnitudes of each row: eight partial sums, added in order, in vector registers or not."""
    out = np.zeros(x.shape[0])
    lanes = np.empty(8)
    whole = x.shape[1] // 8 * 8
    for t in range(x.shape[0]):
        lanes[:] = 0.0
        for i in range(0, whole, 8):
            for lane in range(8):
                lanes[lane] += np.float64(abs(x[t, i + lane]))
        for i in range(whole, x.shape[1]):
            lanes[0] += np.float64(abs(x[t, i]))
        for lane in range(8):
            out[t] += lanes[lane]
    return out
