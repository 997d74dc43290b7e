"""Compiled passes of PCB over blocks (task, n): the scores by which entries compete, and the balanced mean.

Loops run along the entries of a strip, without branches or library calls, so that LLVM may use vector registers.
"""

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_inline = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
_STRIP = 1024
_MAGIC = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer, which its low bits then hold


@_inline
def tanh(x):
    """The hyperbolic tangent on [-1, 1]: nine terms of its continued fraction, whose error at 1 is 3e-17."""
    z = x * x
    above = 34459425.0 + z * (4729725.0 + z * (135135.0 + z * (990.0 + z)))
    return x * above / (34459425.0 + z * (16216200.0 + z * (945945.0 + z * (13860.0 + z * 45.0))))


@_inline
def exp(x):
    """The exponential on [-700, 0]: 2^k times a Taylor polynomial of the rest, which is at most log(2) / 2."""
    shifted = x * 1.4426950408889634 + _MAGIC
    k = shifted - _MAGIC
    r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10
    tail = 1.0 / 39916800.0 + r * (1.0 / 479001600.0 + r * (1.0 / 6227020800.0))
    middle = 1.0 / 5040.0 + r * (1.0 / 40320.0 + r * (1.0 / 362880.0 + r * (1.0 / 3628800.0 + r * tail)))
    value = 1.0 + r * (
        1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (0.2 / 24.0 + r * (1.0 / 720.0 + r * middle)))))
    )
    scaled = np.float64(value).view(np.int64) + (np.float64(shifted).view(np.int64) << np.int64(52))
    return np.int64(scaled).view(np.float64)


@_jit
def scores(x, low, high, rounding, out):
    """The score of every entry, float32: e^(T (g² - 1)) Σ_s tanh(y_t y_s), summed in the order of the tasks."""
    tasks, n = x.shape
    y, inter, size = np.empty((tasks, _STRIP)), np.empty((tasks, _STRIP)), np.empty((tasks, _STRIP))
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        inter[:] = 0.0
        size[:] = 0.0
        for t in range(tasks):
            span = high[t] - low[t]
            divisor = span if span > 0.0 else 1.0
            flat = 1.0 if span <= 0.0 else 0.0
            for i in range(width):
                v = np.float64(x[t, start + i])
                g = (min(max(abs(v), low[t]), high[t]) - low[t]) / divisor + flat
                y[t, i] = g if v > 0.0 else (-g if v < 0.0 else 0.0)
        for t in range(tasks):
            for s in range(t, tasks):
                _pull(y[t], y[s], inter[t], size[t], inter[s], size[s], width, s > t)
        for t in range(tasks):
            for i in range(width):
                strong = abs(inter[t, i]) > rounding * size[t, i]
                height = max(tasks * (y[t, i] * y[t, i] - 1.0), -700.0)
                out[t, start + i] = np.float32(exp(height) * inter[t, i] if strong else 0.0)


@_jit
def _pull(a, b, inter_a, size_a, inter_b, size_b, width, both):
    """Add tanh(a b) to the sums of one task, or of two."""
    if both:
        for i in range(width):
            pull = tanh(a[i] * b[i])
            inter_a[i] += pull
            size_a[i] += abs(pull)
            inter_b[i] += pull
            size_b[i] += abs(pull)
    else:
        for i in range(width):
            pull = tanh(a[i] * b[i])
            inter_a[i] += pull
            size_a[i] += abs(pull)


@_jit
def balanced_mean(x, score, low, high, quantile, top, coefficients, out):
    """Σ_t w_t c_t sign(x_t) b_t / Σ_t w_t, with w the scores between `quantile` and `top`, and b the clipped |x|."""
    tasks, n = x.shape
    above, below, w = np.empty(_STRIP), np.empty(_STRIP), np.empty(_STRIP)
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        above[:] = 0.0
        below[:] = 0.0
        for t in range(tasks):
            _share(score[t, start : start + width], quantile[t], top[t], w)
            _add(x[t, start : start + width], w, low[t], high[t], coefficients[t], above, below)
        for i in range(width):
            out[start + i] = above[i] / max(below[i], 1e-12)


@_jit
def _add(x, w, low, high, coefficient, above, below):
    for i in range(x.size):
        v = np.float64(x[i])
        b = min(max(abs(v), low), high)
        above[i] += w[i] * coefficient * (b if v > 0.0 else (-b if v < 0.0 else 0.0))
        below[i] += w[i]


@_jit
def _share(score, quantile, top, w):
    """Scores from 0 (`quantile`) to 1 (`top`); where these are equal, whether a score is there, and positive."""
    reach = top - quantile
    if reach > 0.0:
        for i in range(score.size):
            w[i] = min(max((np.float64(score[i]) - quantile) / reach, 0.0), 1.0)
    else:
        for i in range(score.size):
            w[i] = 1.0 if score[i] == top and score[i] > 0.0 else 0.0
