"""Compiled ranks of magnitudes within rows, and entries dropped with a probability that grows with the rank."""

import numba
import numpy as np

from taskvec.ops.random_kernels import bits53

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")
_SHORT = 48  # rows that insertion sorts faster
_LONG = 6000  # rows for which three passes of 11 bits are faster than four of 8


@_jit
def _insertion(row, order):
    for i in range(row.size):
        size, j = abs(row[i]), i
        while j > 0 and abs(row[order[j - 1]]) > size:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i


@_jit
def _radix(pairs, scratch, counts, shift):
    """One stable pass over as many bits of the upper halves as there are counts, from `shift` on."""
    mask = np.uint64(counts.size - 1)
    by = np.uint64(32 + shift)
    counts[:] = 0
    for i in range(pairs.size):
        counts[(pairs[i] >> by) & mask] += 1
    at = 0
    for b in range(counts.size):
        counts[b], at = at, at + counts[b]
    for i in range(pairs.size):
        b = (pairs[i] >> by) & mask
        scratch[counts[b]] = pairs[i]
        counts[b] += 1


@_jit
def _sort(row, order, pairs, scratch, bits):
    """A radix sort of (magnitude, position) pairs, low bits first: two passes at a time, so that they end in place."""
    n = row.size
    for i in range(n):
        pattern = np.float32(abs(row[i])).view(np.uint32)
        pairs[i] = (np.uint64(pattern) << np.uint64(32)) | np.uint64(i)
    counts = np.empty(1 << bits, np.int64)
    shift = 0
    while shift < 31:
        _radix(pairs[:n], scratch, counts, shift)
        _radix(scratch[:n], pairs, counts, min(shift + bits, 31))
        shift += 2 * bits
    for i in range(n):
        order[i] = np.int64(pairs[i] & np.uint64(0xFFFFFFFF))


@_jit
def order_of(row, order, pairs, scratch):
    """The positions of a row's entries by ascending magnitude, equal ones in their order (below 2^32 of them)."""
    if row.size <= _SHORT:
        _insertion(row, order)
    else:
        _sort(row, order, pairs, scratch, 8 if row.size < _LONG else 11)


@_jit
def _likely(row, middle, epsilon, table, order, pairs, scratch, out):
    """The probability of each entry of a row: middle - epsilon + 2 epsilon rank / (m - 1), at most 1."""
    if row.size == 1:
        out[0] = middle
        return
    order_of(row, order, pairs, scratch)
    for rank in range(row.size):
        table[rank] = min(middle - epsilon + 2.0 * epsilon * rank / (row.size - 1), 1.0)
    for rank in range(row.size):
        out[order[rank]] = table[rank]


@_jit
def _drop(row, key, start, likely, divisor, out):
    for i in range(row.size):
        u = np.float64(np.int64(bits53(key, start + np.uint64(i)))) * 2.0**-53
        out[i] = np.float64(row[i]) / (likely[i] if divisor == 0.0 else divisor) if u < likely[i] else 0.0


@_jit
def drop_ranked(x, keys, start, width, density, epsilon, divisors, out):
    """Divide by p where the number drawn is below p = density - epsilon + 2 epsilon rank / (width - 1), else 0.

    Where a task's divisor is not 0, entries are divided by that instead.
    """
    order, pairs, scratch = np.empty(width, np.int64), np.empty(width, np.uint64), np.empty(width, np.uint64)
    table, likely = np.empty(width), np.empty(width)
    for t in range(x.shape[0]):
        spread = epsilon if density[t] < 1.0 else 0.0
        for first in range(0, x.shape[1], width):
            row = x[t, first : first + width]
            _likely(row, density[t], spread, table, order, pairs, scratch, likely)
            _drop(row, keys[t], start + np.uint64(first), likely, divisors[t], out[t, first : first + width])
