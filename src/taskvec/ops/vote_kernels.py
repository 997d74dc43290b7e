"""Compiled sign votes on blocks (task, n): the arithmetic of `signs`, a strip at a time, nothing large allocated.

`rule` is the tuple that `signs.Rule.codes` makes: (what is added up: 0 values, 1 weighted values, 2 signs; the sign
that a zero vote elects; the divisor: 0 none, 1 the number of those who agree, 2 the sum of their coefficients).
Each loop is a function of its own, over few arrays: that is what lets LLVM use vector registers.
"""

import numba
import numpy as np

from taskvec.ops.random_kernels import drop_row

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_STRIP = 2048  # entries whose sums stay in the nearest cache
_ROUNDING = 2.0**-40


@_jit
def _kept(x, low, high):
    return np.float64(x) if low <= abs(x) <= high else 0.0


@_jit
def _trim(x, low, high, out):
    for i in range(x.size):
        out[i] = _kept(x[i], low, high)


@_jit
def _add_values(x, low, high, weight, first, total, size):
    if first:
        for i in range(x.size):
            v = weight * _kept(x[i], low, high)
            total[i] = v
            size[i] = abs(v)
        return
    for i in range(x.size):
        v = weight * _kept(x[i], low, high)
        total[i] += v
        size[i] += abs(v)


@_jit
def _add_signs(x, low, high, first, total, size):
    if first:
        total[:] = 0.0
        size[:] = 0.0
    for i in range(x.size):
        v = _kept(x[i], low, high)
        total[i] += np.float64(v > 0.0) - np.float64(v < 0.0)
        size[i] += np.float64(v != 0.0)


@_jit
def _elect(total, size, tie):
    """The elected sign, in place of the total."""
    for i in range(total.size):
        s = total[i]
        total[i] = tie if abs(s) <= _ROUNDING * size[i] else (1.0 if s > 0.0 else -1.0)


@_jit
def _collect(x, low, high, vote, weight, share, first, elected, agreed, voters):
    if first:
        for i in range(x.size):
            v = _kept(x[i], low, high)
            yes = vote * v * elected[i] > 0.0
            agreed[i] = weight * v if yes else 0.0
            voters[i] = share if yes else 0.0
        return
    for i in range(x.size):
        v = _kept(x[i], low, high)
        yes = vote * v * elected[i] > 0.0
        agreed[i] += weight * v if yes else 0.0
        voters[i] += share if yes else 0.0


@_jit
def _finish(agreed, voters, divide, out):
    for i in range(out.size):
        out[i] = agreed[i] / (voters[i] if divide and voters[i] != 0.0 else 1.0)


@_jit
def _vote(x, start, lows, highs, coefficients, rule, total, size, agreed, voters, out):
    """One strip of x (task, n), from `start`; cutting it out of x would leave rows that LLVM takes for strided ones."""
    n = out.size
    stop = start + n
    for t in range(x.shape[0]):
        row, low, high, vote = x[t, start:stop], lows[t], highs[t], coefficients[t] if rule[0] == 1 else 1.0
        if rule[0] == 2:
            _add_signs(row, low, high, t == 0, total[:n], size[:n])
        else:
            _add_values(row, low, high, vote, t == 0, total, size)
    _elect(total[:n], size, np.float64(rule[1]))
    for t in range(x.shape[0]):
        row, low, high, vote = x[t, start:stop], lows[t], highs[t], coefficients[t] if rule[0] == 1 else 1.0
        share = coefficients[t] if rule[2] == 2 else 1.0
        _collect(row, low, high, vote, coefficients[t], share, t == 0, total, agreed, voters)
    _finish(agreed[:n], voters[:n], rule[2] > 0, out)


@_jit
def trimmed_vote(x, lows, highs, coefficients, rule, out):
    """Keep magnitudes from the row's low to its high in x (task, n), then vote."""
    total, size = np.empty(_STRIP), np.empty(_STRIP)
    agreed, voters = np.empty(_STRIP), np.empty(_STRIP)
    for start in range(0, out.size, _STRIP):
        stop = min(start + _STRIP, out.size)
        _vote(x, start, lows, highs, coefficients, rule, total, size, agreed, voters, out[start:stop])


@_jit
def vote(rows, coefficients, rule, out):
    """A vote over rows (task, n) of kept entries."""
    trimmed_vote(rows, np.zeros(len(rows)), np.full(len(rows), np.inf), coefficients, rule, out)


@_jit
def dropped_vote(x, bars, keys, start, thresholds, divisors, coefficients, rule, out):
    """Drop entries by their random numbers, divide by the row's divisor, keep what reaches the row's bar, then vote."""
    rows, lows, highs = np.empty((x.shape[0], _STRIP)), np.zeros(x.shape[0]), np.full(x.shape[0], np.inf)
    total, size = np.empty(_STRIP), np.empty(_STRIP)
    agreed, voters = np.empty(_STRIP), np.empty(_STRIP)
    for at in range(0, out.size, _STRIP):
        stop = min(at + _STRIP, out.size)
        for t in range(x.shape[0]):
            drop_row(x[t, at:stop], keys[t], start + np.uint64(at), thresholds[t], divisors[t], bars[t], rows[t])
        _vote(rows, 0, lows, highs, coefficients, rule, total, size, agreed, voters, out[at:stop])


@_jit
def dropped_sum(x, keys, start, thresholds, divisors, coefficients, out):
    """The weighted sum of rows whose entries were dropped by their random numbers and divided by a divisor."""
    row = np.empty(_STRIP)
    out[:] = 0.0
    for at in range(0, out.size, _STRIP):
        stop = min(at + _STRIP, out.size)
        for t in range(x.shape[0]):
            drop_row(x[t, at:stop], keys[t], start + np.uint64(at), thresholds[t], divisors[t], np.float32(0.0), row)
            for i in range(stop - at):
                out[at + i] += coefficients[t] * row[i]


@_jit
def trimmed_sum(x, lows, highs, coefficients, out):
    """The weighted sum of the entries whose magnitude is from the row's low to its high."""
    row = np.empty(_STRIP)
    out[:] = 0.0
    for at in range(0, out.size, _STRIP):
        stop = min(at + _STRIP, out.size)
        for t in range(x.shape[0]):
            _trim(x[t, at:stop], lows[t], highs[t], row)
            for i in range(stop - at):
                out[at + i] += coefficients[t] * row[i]
