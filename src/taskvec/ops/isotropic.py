"""Matrices with one singular value: every direction of a sum of deltas at the same strength (arXiv:2502.04959).

A direction in which the sum is 0 but for rounding is arbitrary, and full strength there would be invented. What counts
as 0 is measured against the deltas that were added (the root of the sum of their squared Frobenius norms), since their
sum may have cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskvec.ops.polar import polar
from taskvec.ops.spectral import decompose
from taskvec.ops.triplets import Triplets


@final
@dataclass(frozen=True, eq=False, slots=True)
class Isotropic:
    """`matrix` (m, n) has the singular value `level`, but for `dropped` directions of min(m, n) in which it is 0."""

    matrix: Float64[Tensor, "m n"]
    level: float
    dropped: int


def floor_of(stacked: Tensor, tolerance: float) -> float:
    """The singular value below which a sum of the stacked deltas counts as 0."""
    return tolerance * float(torch.linalg.vector_norm(stacked.double()))


def isotropic_sum(stacked: Float[Tensor, "task m n"], *, tolerance: float) -> Isotropic:
    """The polar factor of the sum, times the mean of its min(m, n) singular values."""
    return _at_one_level(_above(decompose(stacked.double().sum(0)), floor_of(stacked, tolerance)), tolerance)


def shares(rank: int, tasks: int, common: float) -> tuple[int, int]:
    """How many of `rank` directions are common, and how many each task has for itself; together they are `rank`."""
    own = min(round((rank - int(common * rank)) / tasks), rank // tasks)
    return rank - tasks * own, own


def isotropic_subspaces(stacked: Float[Tensor, "task m n"], *, common: float, tolerance: float) -> Isotropic:
    """The same for the leading directions of the sum, and of what is left of each delta beside them."""
    exact, floor = stacked.double(), floor_of(stacked, tolerance)
    shared, own = shares(min(stacked.shape[1:]), len(stacked), common)
    top = _above(decompose(exact.sum(0), shared), floor)
    rest = [_above(decompose(delta - top.u @ (top.u.T @ delta), own), floor) for delta in exact] if own else []
    parts = [*rest, top]
    together = Triplets(
        torch.cat([x.u for x in parts], 1), torch.cat([x.s for x in parts]), torch.cat([x.v for x in parts], 1)
    )
    return _at_one_level(together, tolerance)


def _above(x: Triplets, floor: float) -> Triplets:
    return x.top(int((x.s > floor).sum()))


def _at_one_level(x: Triplets, tolerance: float) -> Isotropic:
    """Left and right vectors each made orthonormal, and the mean of min(m, n) singular values between them."""
    rank = min(x.u.shape[0], x.v.shape[0])
    if not x.rank:
        return Isotropic(x.matrix(), 0.0, rank)
    left, right = polar(x.u, tolerance=tolerance), polar(x.v, tolerance=tolerance)
    level = float(x.s.sum()) / rank
    lost = max(left.dropped, right.dropped)
    return Isotropic(level * (left.factor @ right.factor.T), level, rank - x.rank + lost)
