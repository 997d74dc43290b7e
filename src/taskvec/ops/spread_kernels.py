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
    total, size = np.empty(_STRIP), np.empty(_STRIP)
    above, below = np.empty(_STRIP), np.empty(_STRIP)
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        total[:] = 0.0
        size[:] = 0.0
        above[:] = 0.0
        below[:] = 0.0
        for t in range(tasks):
            for i in range(width):
                v = np.float64(x[t, start + i])
                total[i] += v
                size[i] += abs(v)
        for i in range(width):
            voted = total[i] if abs(total[i]) > rounding * size[i] else 0.0
            total[i] = 1.0 if plus and voted == 0.0 else voted
        for t in range(tasks):
            c = weights[t]
            for i in range(width):
                v = np.float64(x[t, start + i])
                yes = (v > 0.0 and total[i] > 0.0) or (v < 0.0 and total[i] < 0.0)
                above[i] += c * v if yes else 0.0
                below[i] += c if yes else 0.0
        for i in range(width):
            divisor = max(below[i], floor)
            chosen = bar < 0.0 or spread[start + i] >= bar
            out[start + i] = above[i] / divisor if chosen and divisor > 0.0 else 0.0
