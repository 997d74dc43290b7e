"""The relative error of a lossy encoding, accumulated while it is written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskvec.ops.bits import Floats


class RelativeError:
    """‖decoded − delta‖ / ‖delta‖ over one tensor, from sums of squares; scaled so that 1e-200 does not vanish."""

    __slots__ = ("_exponent", "_lost", "_total")

    def __init__(self) -> None:
        self._lost = self._total = 0.0
        self._exponent: int | None = None

    def add(self, delta: Floats, decoded: Floats) -> None:
        """Count one block."""
        import numpy as np

        largest = float(np.max(np.abs(delta), initial=0.0))
        if largest == 0.0:
            return
        exponent = math.frexp(largest)[1]
        if self._exponent is None or exponent > self._exponent:
            shift = 2 * ((self._exponent or 0) - exponent)
            self._lost, self._total = math.ldexp(self._lost, shift), math.ldexp(self._total, shift)
            self._exponent = exponent
        scaled = np.ldexp(delta, -self._exponent)
        rest = np.ldexp(decoded, -self._exponent) - scaled
        self._lost += float(np.add.reduce(rest * rest))
        self._total += float(np.add.reduce(scaled * scaled))

    def add_norms(self, delta: float, lost: float) -> None:
        """Count a tensor whose ‖delta‖ and ‖decoded − delta‖ are known; nothing may have been counted before."""
        self._exponent = math.frexp(delta)[1]
        self._total = math.ldexp(delta, -self._exponent) ** 2
        self._lost = math.ldexp(lost, -self._exponent) ** 2

    @property
    def norm(self) -> float:
        """‖delta‖."""
        return math.ldexp(math.sqrt(self._total), self._exponent or 0)

    def text(self) -> str:
        """The error as the format writes it."""
        return f"{math.sqrt(self._lost / self._total) if self._total else 0.0:.6e}"
