"""Matrices with one singular value: every direction of a sum of deltas at the same strength (arXiv:2502.04959).

A direction in which the sum is 0 but for rounding is arbitrary, and full strength there would be invented. What counts
as 0 is measured against the deltas that were added (the root of the sum of their squared Frobenius norms), since their
sum may have cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskvec.ops.polar import Polar, polar
from taskvec.ops.reshaping import reshaped
from taskvec.ops.spectral import Leading, leading_for
from taskvec.ops.triplets import Triplets

_CONDITION = 1e5  # up to which eigenvectors of a Gram matrix leave six digits


@final
@dataclass(frozen=True, eq=False, slots=True)
class Isotropic:
    """`matrix` (m, n) has the singular value `level`, but for `dropped` directions of min(m, n) in which it is 0."""

    matrix: Float64[Tensor, "m n"]
    level: float
    dropped: int


def floor_of(stacked: Tensor, tolerance: float) -> float:
    """The singular value below which a sum of the stacked deltas counts as 0."""
    return tolerance * float(torch.linalg.vector_norm(stacked, dtype=torch.float64))


def isotropic_sum(stacked: Float[Tensor, "task m n"], *, tolerance: float) -> Isotropic:
    """The polar factor of the sum, times the mean of its min(m, n) singular values."""
    floor, level, dropped = floor_of(stacked, tolerance), 0.0, min(stacked.shape[1:])

    def flat(s: Tensor) -> Tensor:
        nonlocal level, dropped
        kept = s > floor
        level, dropped = float(s[kept].sum()) / len(s), int((~kept).sum())
        return kept * level

    matrix = reshaped(stacked.sum(0, dtype=torch.float64), flat)
    return Isotropic(matrix, level, dropped)


def shares(rank: int, tasks: int, common: float) -> tuple[int, int]:
    """How many of `rank` directions are common, and how many each task has for itself; together they are `rank`."""
    own = min(round((rank - int(common * rank)) / tasks), rank // tasks)
    return rank - tasks * own, own


def isotropic_subspaces(
    stacked: Float[Tensor, "task m n"],
    *,
    common: float,
    tolerance: float,
    leading: Callable[[Tensor, int], Leading] = leading_for,
) -> Isotropic:
    """The same for the leading directions of the sum, and of what is left of each delta beside them.

    `leading` gives so many of the largest triplets of a matrix.
    """
    floor = floor_of(stacked, tolerance)
    shared, own = shares(min(stacked.shape[1:]), len(stacked), common)
    if not own:
        return isotropic_sum(stacked, tolerance=tolerance)
    top = _above(leading(stacked.sum(0, dtype=torch.float64), shared).triplets, floor)
    left = top.u.double()
    rest = [_above(leading(delta - left @ (left.T @ delta.double()), own).triplets, floor) for delta in stacked]
    parts = [*rest, top]
    together = Triplets(
        torch.cat([x.u for x in parts], 1), torch.cat([x.s for x in parts]), torch.cat([x.v for x in parts], 1)
    )
    return _at_one_level(together, tolerance)


def _above(x: Triplets, floor: float) -> Triplets:
    return x.top(int((x.s > floor).sum()))


def _orthonormal(columns: Tensor, tolerance: float) -> Polar:
    found = polar(columns, tolerance=tolerance, route="eigh")
    return found if found.condition < _CONDITION else polar(columns, tolerance=tolerance)


def _at_one_level(x: Triplets, tolerance: float) -> Isotropic:
    """Left and right vectors each made orthonormal, and the mean of min(m, n) singular values between them."""
    rank = min(x.u.shape[0], x.v.shape[0])
    if not x.rank:
        return Isotropic(x.matrix(), 0.0, rank)
    left, right = (_orthonormal(side, tolerance) for side in (x.u.double(), x.v.double()))
    level = float(x.s.sum()) / rank
    lost = max(left.dropped, right.dropped)
    return Isotropic(level * (left.factor @ right.factor.T), level, rank - x.rank + lost)
