"""Singular triplets: a matrix as u diag(s) vᵀ, kept as its thin factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, eq=False, slots=True)
class Triplets:
    """u (m, k) and v (n, k) with orthonormal columns, s (k,) in descending order: the matrix is u diag(s) vᵀ."""

    u: Tensor
    s: Tensor
    v: Tensor

    @property
    def rank(self) -> int:
        """How many triplets there are."""
        return self.s.shape[0]

    def top(self, rank: int) -> Triplets:
        """The `rank` largest."""
        return Triplets(self.u[:, :rank], self.s[:rank], self.v[:, :rank])

    def matrix(self) -> Tensor:
        """The product, (m, n)."""
        return (self.u * self.s) @ self.v.T
