"""Floating-point tensors as arrays of their bit patterns, and the exact arithmetic on them.

A tensor of any floating dtype is a flat array of unsigned integers of its width. Values are decoded to float64,
combined in float64 and rounded ONCE, to nearest with ties to even, whatever the target format: a conversion by way
of float32 would round twice. Compiled with Numba; the tests hold every kernel to a table-search reference.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taskvec.ops import bfloat_kernels, kernels
from taskvec.ops.dtypes import DType, FloatFormat
from taskvec.ops.scratch import scratch

Bits = npt.NDArray[np.unsignedinteger[Any]]
Floats = npt.NDArray[np.float64]

UINT: dict[int, np.dtype[Any]] = {8: np.dtype("<u1"), 16: np.dtype("<u2"), 32: np.dtype("<u4"), 64: np.dtype("<u8")}
_WIDE = FloatFormat(mantissa=52, bias=1023, largest=0, nan=0)


def bits_dtype(dtype: DType) -> np.dtype[Any]:
    """The unsigned integer type that holds one element of `dtype`."""
    return UINT[dtype.bits]


_parameters: dict[str, tuple[int, float, int, float, float, int, int, int, int]] = {}


def parameters(dtype: DType) -> tuple[int, float, int, float, float, int, int, int, int]:
    """What the generic ≤ 16-bit kernels need; ignored by the float32 and float64 ones."""
    known = _parameters.get(dtype.code)
    if known is None:
        known = _parameters[dtype.code] = _parameters_of(dtype)
    return known


def _parameters_of(dtype: DType) -> tuple[int, float, int, float, float, int, int, int, int]:
    f = dtype.small or _WIDE
    drop = 52 - f.mantissa
    smallest_normal = 2.0 ** (1 - f.bias)
    magic = 2.0 ** (1 - f.bias - f.mantissa) * 2.0**52 if dtype.small else 0.0
    keep_sign = int(f.negative_zero)
    infinity = f.largest + 1 if f.nan != f.largest + 1 else 1 << 16  # a code that no entry has, where there is no Inf
    return drop, 2.0 ** (1023 - f.bias), f.largest, smallest_normal, magic, f.nan, f.bias, keep_sign, infinity


class Block(NamedTuple):
    """A run of entries of one tensor: their bit patterns and what they mean."""

    bits: Bits
    dtype: DType


def decode(x: Block, out: Floats | None = None) -> Floats:
    """The values of `x` as float64, exactly; NaNs lose their payload in the 8- and 16-bit types."""
    out = np.empty(x.bits.size) if out is None else out
    kernels.decode(x.bits, parameters(x.dtype), out)
    return out


def encode(y: Floats, dtype: DType) -> Bits:
    """The bit patterns of `y` rounded once to `dtype`; what overflows becomes the format's Inf (or NaN)."""
    out = np.empty(y.size, bits_dtype(dtype))
    kernels.encode(y, parameters(dtype), out)
    return out


def add_scaled(total: Floats, coefficient: float, x: Block) -> None:
    """`total += coefficient * x`, in float64."""
    kernels.axpy(total, coefficient, x.bits, parameters(x.dtype))


def add_scaled_difference(total: Floats, coefficient: float, tuned: Block, base: Block) -> None:
    """`total += coefficient * (tuned - base)`, in float64."""
    pt, pb = parameters(tuned.dtype), parameters(base.dtype)
    kernels.axpy_difference(total, coefficient, tuned.bits, pt, base.bits, pb)


def difference32(tuned: Block, base: Block, out: npt.NDArray[np.float32]) -> int:
    """`out = tuned - base` rounded once to float32.

    Returns:
        How many results are not finite.
    """
    return int(kernels.difference32(tuned.bits, parameters(tuned.dtype), base.bits, parameters(base.dtype), out))


def add_scaled_product(total: Floats, coefficient: float, left: Floats, right: Floats, start: int) -> None:
    """`total += coefficient * (left @ right).flat[start : start + total.size]`, in float64, only the rows it needs."""
    kernels.axpy_product(total, coefficient, left, right, start)


def displace(base: Block, delta: Floats, out: Block) -> int:
    """`out = base + delta` rounded once to its dtype; where delta is 0 the base stays (its bits, if the dtypes agree).

    Returns:
        How many results are not finite.
    """
    pb, po = parameters(base.dtype), parameters(out.dtype)
    if base.dtype.code == out.dtype.code == "BF16":
        return int(bfloat_kernels.displace_bfloat16(base.bits, pb, delta, out.bits))
    return int(kernels.displace(base.bits, pb, delta, out.bits, po, base.dtype == out.dtype))


class Difference(NamedTuple):
    """The outcome of `difference` on one block: `wrong[i]` is 1 where base + delta is not tuned in every bit."""

    wrong: npt.NDArray[np.uint8]
    overflow: int
    nonfinite: int


def difference(base: Block, tuned: Block, delta: Block) -> Difference:
    """`delta = tuned - base` rounded to its dtype, and where `base + delta` fails to be `tuned` bit for bit.

    A difference that is not a number (a non-finite operand) is stored as 0 and counted as wrong, so that a patch
    restores it. `overflow` counts the finite differences that the dtype of delta cannot hold, `nonfinite` the others.
    `wrong` is a buffer of this thread: use it before the next call.
    """
    wrong = scratch("difference", base.bits.size, np.uint8)
    pb, pt, pd = parameters(base.dtype), parameters(tuned.dtype), parameters(delta.dtype)
    keep = base.dtype == tuned.dtype
    if base.dtype.code == tuned.dtype.code == delta.dtype.code == "BF16":
        overflow, nonfinite = bfloat_kernels.difference_bfloat16(base.bits, tuned.bits, delta.bits, wrong)
    else:
        overflow, nonfinite = kernels.difference(base.bits, pb, tuned.bits, pt, delta.bits, pd, wrong, keep)
    return Difference(wrong, int(overflow), int(nonfinite))


def read32(x: Block, out: npt.NDArray[np.float32]) -> int:
    """`out` = the values of `x` rounded once to float32.

    Returns:
        How many results are not finite.
    """
    return int(kernels.read32(x.bits, parameters(x.dtype), out))


def count_nonfinite(x: Block) -> int:
    """How many entries are NaN or infinite."""
    return int(kernels.count_nonfinite(x.bits, parameters(x.dtype)))
