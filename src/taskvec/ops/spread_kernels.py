"""Compiled passes of SCE over blocks (task, n): how far the tasks differ at an entry, and the weighted vote."""

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_STRIP = 2048


@_jit
def deviations(x, rounding, out):
    """The population standard deviation over tasks; NaN where the variance is 0 to within rounding."""
    tasks, n = x.shape
    mean, square, size = np.empty(_STRIP), np.empty(_STRIP), np.empty(_STRIP)
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        mean[:] = 0.0
        square[:] = 0.0
        size[:] = 0.0
        for t in range(tasks):
            for i in range(width):
                v = np.float64(x[t, start + i])
                mean[i] += v
                size[i] += v * v
        for i in range(width):
            mean[i] /= tasks
        for t in range(tasks):
            for i in range(width):
                v = np.float64(x[t, start + i]) - mean[i]
                square[i] += v * v
        for i in range(width):
            v = np.float32(np.sqrt(square[i] / tasks))
            out[start + i] = v if square[i] > rounding * size[i] else np.float32(np.nan)


@_jit
def squares(x, spread, bar, out):
    """The sums of squares of each task over the entries whose deviation reaches `bar`, in order of the entries."""
    tasks, n = x.shape
    lanes = np.empty(8)
    for t in range(tasks):
        lanes[:] = 0.0
        whole = n // 8 * 8
        for i in range(0, whole, 8):
            for lane in range(8):
                v = np.float64(x[t, i + lane]) if bar < 0.0 or spread[i + lane] >= bar else 0.0
                lanes[lane] += v * v
        for i in range(whole, n):
            v = np.float64(x[t, i]) if bar < 0.0 or spread[i] >= bar else 0.0
            lanes[0] += v * v
        total = 0.0
        for lane in range(8):
            total += lanes[lane]
        out[t] = total


@_jit
def weighted_vote(x, spread, bar, weights, rounding, plus, floor, out):
    """Σ c_t x_t / Σ c_t over the tasks whose sign is elected; entries whose deviation is below `bar` are 0.

    A vote of 0 elects nobody, or with `plus` the positive sign; the divisor is at least `floor`.
    """
    tasks, n = x.shape
    sums = np.empty((6, _STRIP))
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        sums[:] = 0.0
        for t in range(tasks):
            _collect(x[t, start : start + width], weights[t], sums[0], sums[1], sums[2], sums[3], sums[4], sums[5])
        _decide(sums, rounding, plus, floor, out[start : start + width])
        if bar >= 0.0:
            for i in range(width):
                out[start + i] = out[start + i] if spread[start + i] >= bar else 0.0


@_jit
def _collect(x, c, total, size, up, up_weight, down, down_weight):
    for i in range(x.size):
        v = np.float64(x[i])
        total[i] += v
        size[i] += abs(v)
        up[i] += c * v if v > 0.0 else 0.0
        up_weight[i] += c if v > 0.0 else 0.0
        down[i] += c * v if v < 0.0 else 0.0
        down_weight[i] += c if v < 0.0 else 0.0


@_jit
def _decide(sums, rounding, plus, floor, out):
    total, size, up, up_weight, down, down_weight = sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]
    for i in range(out.size):
        bar = rounding * size[i]
        positive = total[i] > bar or (plus and total[i] == 0.0)
        negative = total[i] < -bar
        above = up[i] if positive else (down[i] if negative else 0.0)
        below = max(up_weight[i] if positive else (down_weight[i] if negative else 0.0), floor)
        out[i] = above / below if below > 0.0 else 0.0
