"""Slow, independent references for the bit arithmetic: tables of exact values and rational distances."""

import bisect
import functools
import math
from fractions import Fraction

import numpy as np
import torch

from taskvec.ops.bits import bits_dtype
from taskvec.ops.dtypes import DTYPES, DType

SMALL = [d for d in DTYPES.values() if d.small]
MOVING = [d for d in DTYPES.values() if d.moves]


def torch_values(bits: np.ndarray, dtype: DType) -> np.ndarray:
    """What torch says that bit patterns mean, as float64."""
    return torch.from_numpy(bits.copy()).view(getattr(torch, dtype.torch)).double().numpy()


def all_patterns(dtype: DType) -> np.ndarray:
    """Every bit pattern of an 8- or 16-bit type."""
    return np.arange(1 << dtype.bits, dtype=np.uint32).astype(bits_dtype(dtype))


@functools.cache
def magnitudes(code: str) -> tuple[list[float], list[int]]:
    """The finite values >= 0 of a small type in ascending order, and their codes."""
    dtype = DTYPES[code]
    values = torch_values(all_patterns(dtype), dtype)
    keep = [i for i in range(1 << (dtype.bits - 1)) if math.isfinite(values[i])]
    return [float(values[i]) for i in keep], keep


def nearest_code(y: float, dtype: DType) -> int | None:
    """The code of y rounded once, to nearest with ties to the even code; None where that is NaN."""
    values, codes = magnitudes(dtype.code)
    if math.isnan(y):
        return None
    sign = 1 << (dtype.bits - 1) if math.copysign(1.0, y) < 0 else 0
    magnitude, top = abs(y), len(values)
    # Rounding happens as if the exponent range went on: the next number would lie one spacing above the largest.
    beyond = 2 * values[-1] - values[-2]
    at = bisect.bisect_left(values, magnitude)
    if magnitude >= beyond:
        choice = top
    elif at < top and values[at] == magnitude:
        choice = at
    else:
        low, high = Fraction(values[at - 1]), Fraction(values[at] if at < top else beyond)
        below, above = Fraction(magnitude) - low, high - Fraction(magnitude)
        choice = at - 1 if below < above or (below == above and codes[at - 1] % 2 == 0) else at
    if choice == top:
        return _overflow(sign, dtype)
    code = codes[choice]
    return code | sign if code or has_negative_zero(dtype) else code


def has_negative_zero(dtype: DType) -> bool:
    """Whether the pattern of the sign bit alone is -0.0 (and not NaN)."""
    return not math.isnan(torch_values(np.array([1 << (dtype.bits - 1)], bits_dtype(dtype)), dtype)[0])


def _overflow(sign: int, dtype: DType) -> int | None:
    values = torch_values(all_patterns(dtype), dtype)
    infinite = np.flatnonzero(np.isposinf(values))
    return int(infinite[0]) | sign if infinite.size else None


def nearest_float32(y: float) -> int:
    """The pattern of y rounded once to float32, by rational distances to its neighbours."""
    with np.errstate(over="ignore"):
        guess = np.float32(y)
    if not math.isfinite(y) or y == 0.0:
        return int(guess.view(np.uint32))
    largest = Fraction(float(np.finfo(np.float32).max))
    beyond = largest + (largest - Fraction(float(np.nextafter(np.finfo(np.float32).max, np.float32(0)))))

    def position(x: np.float32) -> Fraction:
        return Fraction(float(x)) if np.isfinite(x) else (beyond if x > 0 else -beyond)

    with np.errstate(over="ignore"):
        around = {np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))}
    best = min(around, key=lambda x: (abs(position(x) - Fraction(y)), int(x.view(np.uint32)) % 2))
    pattern = int(best.view(np.uint32))
    return pattern | 0x80000000 if best == 0.0 and y < 0 else pattern


def reference_encode(y: float, dtype: DType) -> int | None:
    """The code of y rounded once to any moving type; None for NaN."""
    if math.isnan(y):
        return None
    if dtype.small:
        return nearest_code(y, dtype)
    return nearest_float32(y) if dtype.bits == 32 else int(np.float64(y).view(np.uint64))


def boundary_values(dtype: DType, pairs: int = 200) -> np.ndarray:
    """Doubles on, just above and just below the ties of a type, by less than float32 could tell; and its extremes."""
    values, _ = magnitudes(dtype.code) if dtype.small else (float32_samples(), [])
    beyond = 2 * values[-1] - values[-2]
    every = np.array([*values, beyond])
    picks = np.unique(np.r_[0:8, np.linspace(0, len(every) - 2, pairs).astype(int), len(every) - 6 : len(every) - 1])
    low, high = every[picks], every[picks + 1]
    tie = low + (high - low) / 2
    near = [tie, np.nextafter(tie, np.inf), np.nextafter(tie, 0), tie * (1 + 2.0**-40), tie * (1 - 2.0**-40), low, high]
    special = np.array([0.0, 5e-324, 1e-300, 1e300, np.inf, np.nan, every[-1], np.nextafter(every[-1], np.inf)])
    magnitude = np.concatenate([*near, special])
    return np.concatenate([magnitude, -magnitude])


def float32_samples() -> list[float]:
    """Neighbouring float32 numbers from every exponent, subnormals included."""
    exponents = np.arange(255, dtype=np.uint32) << np.uint32(23)
    ends = [0, 1, 0x7FFFFE, 0x7FFFFF]
    patterns = np.unique(np.concatenate([exponents + np.uint32(end) for end in ends]))
    return patterns.view(np.float32).astype(np.float64).tolist()
