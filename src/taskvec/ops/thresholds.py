"""The k-th largest magnitude of a stream, exactly, from integer histograms of float32 bit patterns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from taskvec.errors import ParameterError
from taskvec.ops import kernels
from taskvec.ops.bits import Floats

Stream = Callable[[], Iterable[Floats]]


def kept(density: float, n: int) -> int:
    """How many of `n` entries a density in (0, 1] keeps: max(1, ceil(density * n)), and 0 of 0.

    The product is the float64 one: 0.07 of 100 keeps 8, as the published definitions do.
    """
    return max(1, math.ceil(density * n)) if n else 0


def kth_largest_pattern(blocks: Stream, k: int) -> int:
    """The float32 bit pattern of the k-th largest |x| over all blocks, for k from 1 to the number of entries.

    Non-negative float32 patterns are ordered as their values, so two histograms of 16 bits find it in two passes,
    whatever the blocks; no value is sorted.

    Raises:
        ParameterError: there is no k-th entry.
    """
    upper = np.zeros(1 << 16, np.int64)
    for block in blocks():
        kernels.magnitude_histogram(block, 16, 0, upper)
    if not 1 <= k <= int(upper.sum()):
        raise ParameterError(f"there is no entry number {k} among {int(upper.sum())}.")
    prefix, above = _descend(upper, k)
    lower = np.zeros(1 << 16, np.int64)
    for block in blocks():
        kernels.magnitude_histogram(block, 0, prefix, lower)
    return (prefix << 16) | _descend(lower, k - above)[0]


def _descend(counts: npt.NDArray[np.int64], k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest, and how many entries lie in the bins above it."""
    from_above = np.cumsum(counts[::-1])
    index = int(np.searchsorted(from_above, k))
    return counts.size - 1 - index, int(from_above[index] - counts[counts.size - 1 - index])


def pattern_of(value: float) -> int:
    """The float32 bit pattern of a magnitude."""
    return int(np.float32(abs(value)).view(np.uint32))


def select(block: Floats, pattern: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Positions and float32 values of the non-zero entries of `block` whose magnitude pattern is >= `pattern`."""
    positions, values = np.empty(block.size, np.int64), np.empty(block.size, np.float32)
    n = kernels.select(block, np.uint32(pattern), positions, values)
    return positions[:n], values[:n]


def upper_histogram(block: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Counts (task, 65536) of the upper 16 bits of the float32 magnitude patterns of each row of `block`."""
    counts = np.zeros((block.shape[0], 1 << 16), np.int64)
    for row, count in zip(block, counts, strict=True):
        kernels.magnitude_histogram(row, 16, 0, count)
    return counts


def lower_histogram(block: npt.NDArray[np.float32], prefixes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Counts (task, 65536) of the lower 16 bits of the patterns whose upper bits are the row's prefix."""
    counts = np.zeros((block.shape[0], 1 << 16), np.int64)
    for row, count, prefix in zip(block, counts, prefixes, strict=True):
        kernels.magnitude_histogram(row, 0, prefix, count)
    return counts


def descend(counts: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each row, (the bin of the k-th largest, how much of k is left within that bin); rows (task, 2)."""
    found = [_descend(count, int(k)) for count, k in zip(counts, ranks, strict=True)]
    return np.array([(index, k - above) for (index, above), k in zip(found, ranks, strict=True)], np.int64)
