"""Axes of charts: round ticks that span the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

_TICKS = 5
_STEPS, _WHOLE = (1.0, 2.0, 2.5, 5.0, 10.0), (1.0, 2.0, 5.0, 10.0)


def _plain(value: float) -> str:
    return f"{value:,.10g}"


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """Reaches from the first to the last of its ticks."""

    label: str
    ticks: tuple[float, ...]
    told: Callable[[float], str] = _plain
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the first tick, 1 at the last."""
        low, at, high = (math.log(v) if self.logarithmic else v for v in (self.ticks[0], value, self.ticks[-1]))
        return (at - low) / (high - low)


def even(
    values: Iterable[float],
    label: str,
    *,
    zero: bool = False,
    whole: bool = False,
    told: Callable[[float], str] = _plain,
) -> Axis:
    """About five round steps from the least to the greatest value, or from 0 (`zero`); `whole` numbers only."""
    known = [v for v in values if math.isfinite(v)] + ([0.0] if zero else [])
    low, high = min(known, default=0.0), max(known, default=1.0)
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else (low - abs(low) / 2, low + abs(low) / 2)
    step = _round_step((high - low) / _TICKS, whole=whole)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, tuple(step * i for i in range(first, last + 1)), told)


def powers(values: Iterable[float], label: str, *, told: Callable[[float], str] = _plain) -> Axis:
    """A logarithmic axis with ticks at 1, 2 and 5 times powers of ten, over positive values."""
    known = [v for v in values if v > 0 and math.isfinite(v)] or [1.0]
    first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    marks = [f * 10.0**k for k in range(first, last + 2) for f in (1.0, 2.0, 5.0)]
    start = max(i for i, mark in enumerate(marks) if mark <= min(known) * (1 + 1e-9))
    stop = next(i for i, mark in enumerate(marks) if mark >= max(known) * (1 - 1e-9) and i > start)
    return Axis(label, tuple(marks[start : stop + 1]), told, logarithmic=True)


def _round_step(step: float, *, whole: bool) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    found = next(f * power for f in (_WHOLE if whole else _STEPS) if f * power >= step * (1 - 1e-9))
    return max(found, 1.0) if whole else found
