"""Compiled sign votes on blocks (task, n): the same arithmetic as `signs`, one pass, nothing large allocated."""

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_STRIP = 2048  # entries whose sums stay in the nearest cache


@_jit
def trim_elect_aggregate(x, patterns, rounding, mean, out):
    """Keep what reaches the row's magnitude pattern, elect a sign, and take the mean or the sum of who agrees."""
    tasks, n = x.shape
    total, size = np.empty(_STRIP), np.empty(_STRIP)
    agreed, voters = np.empty(_STRIP), np.empty(_STRIP)
    for start in range(0, n, _STRIP):
        width = min(_STRIP, n - start)
        total[:] = 0.0
        size[:] = 0.0
        for t in range(tasks):
            bar = np.uint32(patterns[t])
            for i in range(width):
                v = x[t, start + i]
                kept = np.float64(v) if np.float32(abs(v)).view(np.uint32) >= bar else 0.0
                total[i] += kept
                size[i] += abs(kept)
        agreed[:] = 0.0
        voters[:] = 0.0
        for t in range(tasks):
            bar = np.uint32(patterns[t])
            for i in range(width):
                v = x[t, start + i]
                kept = np.float64(v) if np.float32(abs(v)).view(np.uint32) >= bar else 0.0
                elected = total[i] if abs(total[i]) > rounding * size[i] else 0.0
                yes = (kept > 0.0 and elected > 0.0) or (kept < 0.0 and elected < 0.0)
                agreed[i] += kept if yes else 0.0
                voters[i] += 1.0 if yes else 0.0
        for i in range(width):
            out[start + i] = agreed[i] / max(voters[i], 1.0) if mean else agreed[i]
