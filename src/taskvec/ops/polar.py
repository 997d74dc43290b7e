"""The orthogonal polar factor: the orthonormal columns nearest to given ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taskvec.ops.spectral import decompose


@final
@dataclass(frozen=True, eq=False, slots=True)
class Polar:
    """`factor` (m, k); `dropped` directions below the tolerance, which it leaves out; the condition of the rest."""

    factor: Tensor
    dropped: int
    condition: float


def polar(columns: Tensor, *, tolerance: float = 1e-6) -> Polar:
    """P Qᵀ of columns = P diag(d) Qᵀ (m, k), over the directions with d > tolerance · max d, in float64.

    Columns that are linearly dependent (equal tasks) so share one direction, and no arbitrary one is made up.
    """
    x = decompose(columns.double())
    d = x.s
    kept = d > tolerance * d.amax() if d.numel() else d.bool()
    condition = float(d[kept].amax() / d[kept].amin()) if bool(kept.any()) else 1.0
    return Polar(x.u[:, kept] @ x.v[:, kept].T, int((~kept).sum()), condition)
