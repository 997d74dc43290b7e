"""The orthogonal polar factor: the orthonormal columns nearest to given ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


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
    p, d, qh = torch.linalg.svd(columns.double(), full_matrices=False)
    kept = d > tolerance * d.amax() if d.numel() else d.bool()
    condition = float(d[kept].amax() / d[kept].amin()) if bool(kept.any()) else 1.0
    return Polar(p[:, kept] @ qh[kept], int((~kept).sum()), condition)
