"""Compiled ranks of magnitudes within rows, and entries dropped with a probability that grows with the rank."""

import numba
import numpy as np

from taskvec.ops.random_kernels import bits53

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_BITS = 11  # of a magnitude's 31, a pass
_SHORT = 64  # rows that insertion sorts faster


@_jit
def _insertion(row, order):
    for i in range(row.size):
        size, j = abs(row[i]), i
        while j > 0 and abs(row[order[j - 1]]) > size:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i


@_jit
def _radix(row, order, scratch, counts):
    """Three stable passes over the bits of the magnitudes, the low ones first."""
    for i in range(row.size):
        order[i] = i
    for step in range(3):
        shift = np.uint32(_BITS * step)
        counts[:] = 0
        for i in range(row.size):
            counts[(np.float32(abs(row[i])).view(np.uint32) >> shift) & np.uint32((1 << _BITS) - 1)] += 1
        at = 0
        for b in range(counts.size):
            counts[b], at = at, at + counts[b]
        for i in range(row.size):
            k = order[i]
            b = (np.float32(abs(row[k])).view(np.uint32) >> shift) & np.uint32((1 << _BITS) - 1)
            scratch[counts[b]] = k
            counts[b] += 1
        order[:] = scratch[: row.size]


@_jit
def order_of(row, order, scratch, counts):
    """The positions of a row's entries by ascending magnitude, equal ones in their order."""
    if row.size <= _SHORT:
        _insertion(row, order)
    else:
        _radix(row, order, scratch, counts)


@_jit
def drop_ranked(x, keys, start, width, density, epsilon, divisors, out):
    """X / p where the number drawn is below p = density - epsilon + 2 epsilon rank / (width - 1), else 0.

    Where a task's divisor is not 0, entries are divided by that instead.
    """
    order, scratch = np.empty(width, np.int64), np.empty(width, np.int64)
    counts = np.empty(1 << _BITS, np.int64)
    for t in range(x.shape[0]):
        spread = epsilon if density[t] < 1.0 else 0.0
        for first in range(0, x.shape[1], width):
            row = x[t, first : first + width]
            order_of(row, order, scratch, counts)
            for rank in range(width):
                i = order[rank]
                p = density[t]
                if width > 1:
                    p = min(density[t] - spread + 2.0 * spread * rank / (width - 1), 1.0)
                u = np.float64(np.int64(bits53(keys[t], start + np.uint64(first + i)))) * 2.0**-53
                divisor = p if divisors[t] == 0.0 else divisors[t]
                out[t, first + i] = np.float64(row[i]) / divisor if u < p else 0.0
