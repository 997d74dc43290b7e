"""Order statistics of a stream, exactly, from integer histograms of float32 bit patterns.

A float32 number becomes an unsigned integer, its key, such that larger numbers have larger keys (0.0 and -0.0 have
the same one; that of a magnitude is its bit pattern and a leading 1). A histogram of the upper 16 bits of all keys,
and one of the lower 16 bits within each bin that matters, find any order statistic in two passes, whatever the
blocks; no value is sorted. NaN marks an entry that does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from taskvec.errors import ParameterError
from taskvec.ops import kernels
from taskvec.ops.bits import Floats

Stream = Callable[[], Iterable[Floats]]
Counts = npt.NDArray[np.int64]
_HALF = 1 << 16
_SIGN = 0x80000000


def kept(density: float, n: int) -> int:
    """How many of `n` entries a density in (0, 1] keeps: max(1, ceil(density * n)), and 0 of 0.

    The product is the float64 one: 0.07 of 100 keeps 8, as the published definitions do.
    """
    return max(1, math.ceil(density * n)) if n else 0


def kth_largest_pattern(blocks: Stream, k: int) -> int:
    """The float32 bit pattern of the k-th largest |x| over all blocks, for k from 1 to the number of entries.

    NaN ranks above every number.

    Raises:
        ParameterError: there is no k-th entry.
    """
    upper, entries = np.zeros(_HALF, np.int64), 0
    for block in blocks():
        kernels.key_histogram(block, -1, upper, True)
        entries += block.size
    if not 1 <= k <= entries:
        raise ParameterError(f"there is no entry number {k} among {entries}.")
    k -= entries - int(upper.sum())
    if k < 1:
        return pattern_of(math.nan)
    at, within = locate(upper, k)
    lower = np.zeros(_HALF, np.int64)
    for block in blocks():
        kernels.key_histogram(block, at, lower, True)
    return pattern_of(number_of(at, locate(lower, within)[0]))


def pattern_of(value: float) -> int:
    """The float32 bit pattern of a magnitude."""
    return int(np.float32(abs(value)).view(np.uint32))


def select(block: Floats, pattern: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Positions and float32 values of the non-zero entries of `block` whose magnitude pattern is >= `pattern`."""
    positions, values = np.empty(block.size, np.int64), np.empty(block.size, np.float32)
    n = kernels.select(block, np.uint32(pattern), positions, values)
    return positions[:n], values[:n]


def upper_counts(values: npt.NDArray[Any], *, magnitudes: bool = False) -> Counts:
    """Counts (row, 65536) of the upper halves of the keys of each row of `values` (row, n), or of its magnitudes."""
    counts = np.zeros((values.shape[0], _HALF), np.int64)
    for row, count in zip(values, counts, strict=True):
        kernels.key_histogram(row, -1, count, magnitudes)
    return counts


def lower_counts(values: npt.NDArray[Any], upper: Counts, *, magnitudes: bool = False) -> Counts:
    """Counts (row, rank, 65536) of the lower halves of the keys whose upper half is `upper` (row, rank)."""
    counts = np.zeros((*upper.shape, _HALF), np.int64)
    for row, halves, bins in zip(values, upper, counts, strict=True):
        for half, count in zip(halves, bins, strict=True):
            kernels.key_histogram(row, half, count, magnitudes)
    return counts


def locate(counts: Counts, rank: int) -> tuple[int, int]:
    """The bin that holds the entry number `rank` from the top (1 is the largest), and its number within that bin."""
    from_above = np.cumsum(counts[::-1])
    index = int(np.searchsorted(from_above, rank))
    at = counts.size - 1 - index
    return at, rank - int(from_above[index] - counts[at])


def number_of(upper: int, lower: int) -> float:
    """The float32 number whose key has these halves."""
    key = (upper << 16) | lower
    return float(np.uint32(key ^ _SIGN if key & _SIGN else ~key & 0xFFFFFFFF).view(np.float32))
