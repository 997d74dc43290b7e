"""Compiled merges of blocks (task, n), entry by entry; each has a plain definition among the methods or in `signs`.

Strips keep sums in the nearest cache, and let inner loops run along the entries, where they use vector registers.
"""

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_STRIP = 2048


@_jit
def largest(x, out):
    """The mean of the entries of largest magnitude."""
    tasks, n = x.shape
    high, low = np.empty(_STRIP, np.float32), np.empty(_STRIP, np.float32)
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        high[:] = 0.0
        low[:] = 0.0
        for t in range(tasks):
            _extend(x[t, start : start + width], high, low)
        for i in range(width):
            out[start + i] = np.float64(high[i] if high[i] > -low[i] else low[i])
        for i in range(width):
            if high[i] == -low[i] and high[i] > 0.0:
                out[start + i] = _tie(x[:, start + i], high[i])


@_jit
def _extend(x, high, low):
    for i in range(x.size):
        high[i] = max(high[i], x[i])
        low[i] = min(low[i], x[i])


@_jit
def _tie(x, size):
    """The mean of the entries `size` and `-size`."""
    total = 0.0
    voters = 0.0
    for t in range(x.size):
        total += np.float64(x[t]) if abs(x[t]) == size else 0.0
        voters += 1.0 if abs(x[t]) == size else 0.0
    return total / voters


@_jit
def elected_largest(x, rounding, out):
    """The largest magnitude among the entries whose sign is that of their sum, with that sign."""
    tasks, n = x.shape
    total, size = np.empty(_STRIP), np.empty(_STRIP)
    high, low = np.empty(_STRIP, np.float32), np.empty(_STRIP, np.float32)
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        total[:] = 0.0
        size[:] = 0.0
        high[:] = 0.0
        low[:] = 0.0
        for t in range(tasks):
            for i in range(width):
                v = x[t, start + i]
                total[i] += np.float64(v)
                size[i] += np.float64(abs(v))
                high[i] = max(high[i], v)
                low[i] = min(low[i], v)
        for i in range(width):
            elected = np.float64(high[i]) if total[i] > 0.0 else np.float64(low[i])
            out[start + i] = elected if abs(total[i]) > rounding * size[i] else 0.0


@_jit
def active_mean(x, epsilon, factors, out):
    """The mean of the entries beyond `epsilon`; one that is alone there is multiplied by its task's factor."""
    tasks, n = x.shape
    total, single = np.empty(_STRIP), np.empty(_STRIP)
    number = np.empty(_STRIP)
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        total[:] = 0.0
        single[:] = 0.0
        number[:] = 0.0
        for t in range(tasks):
            factor = factors[t]
            for i in range(width):
                v = np.float64(x[t, start + i])
                active = abs(v) > epsilon
                total[i] += v if active else 0.0
                single[i] += v * factor if active else 0.0
                number[i] += 1.0 if active else 0.0
        for i in range(width):
            out[start + i] = single[i] if number[i] == 1.0 else total[i] / max(number[i], 1.0)


@_jit
def active_counts(x, epsilon, counts):
    """How many entries beyond `epsilon` each task has alone (row 0), and how many with others (row 1)."""
    tasks, n = x.shape
    number = np.empty(_STRIP, np.int32)
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        number[:] = 0
        for t in range(tasks):
            for i in range(width):
                number[i] += 1 if np.float64(abs(x[t, start + i])) > epsilon else 0
        for t in range(tasks):
            alone = 0
            shared = 0
            for i in range(width):
                active = np.float64(abs(x[t, start + i])) > epsilon
                alone += 1 if active and number[i] == 1 else 0
                shared += 1 if active and number[i] > 1 else 0
            counts[0, t] += alone
            counts[1, t] += shared
