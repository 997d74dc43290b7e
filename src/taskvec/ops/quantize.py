"""Group-wise symmetric quantisation: one scale a group of consecutive entries, codes in [-limit, limit]."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taskvec.ops import kernels
from taskvec.ops.bits import Bits, Floats, parameters
from taskvec.ops.dtypes import DTYPES

SCALE = DTYPES["BF16"]  # the range of float32 in two bytes: a group of 1e-30-sized deltas keeps its scale


class Quantized(NamedTuple):
    """Codes (int8), the bf16 bit patterns of the scales, and the squared error summed over the entries."""

    codes: npt.NDArray[np.int8]
    scales: Bits
    squared_error: float


def quantize(x: Floats, *, group: int, limit: int) -> Quantized:
    """Codes q and scales s with |x - q * s| <= s / 2; s is max |x| of the group over `limit`, rounded up to bf16."""
    codes = np.empty(x.size, np.int8)
    scales = np.empty(-(-x.size // group), np.uint16)
    error = kernels.quantize(x, group, limit, parameters(SCALE), codes, scales)
    return Quantized(codes, scales, float(error))


def add_dequantized(
    total: Floats, coefficient: float, codes: npt.NDArray[Any], scales: Bits, *, group: int, start: int
) -> None:
    """`total += coefficient * codes * scale`; `start` is the position of total[0] in the tensor.

    Int8 codes are those of the range alone; uint8 ones hold two 4-bit codes a byte and cover the whole tensor.
    """
    kernel = kernels.axpy_quantized if codes.dtype == np.int8 else kernels.axpy_nibbles
    kernel(total, coefficient, codes, scales, parameters(SCALE), group, start)


def pack_nibbles(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Two codes in [-7, 7] a byte: offset by 8, the even position in the low half, an odd tail padded with 0."""
    shifted = (codes + 8).astype(np.uint8)
    if shifted.size % 2:
        shifted = np.append(shifted, np.uint8(8))
    return np.bitwise_or(shifted[0::2], np.left_shift(shifted[1::2], 4), dtype=np.uint8)
