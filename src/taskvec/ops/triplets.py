"""Triplets: a matrix as u diag(s) vᵀ, kept as its thin factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, eq=False, slots=True)
class Triplets:
    """u (m, k), s (k,) and v (n, k): the matrix u diag(s) vᵀ.

    What a decomposition returns has orthonormal columns and descending s ≥ 0; what is made of several need not.
    """

    u: Tensor
    s: Tensor
    v: Tensor

    @classmethod
    def none(cls, m: int, n: int) -> Triplets:
        """No triplets: the matrix (m, n) that is 0; float64."""
        return cls(*(torch.zeros(shape, dtype=torch.float64) for shape in ((m, 0), (0,), (n, 0))))

    @property
    def rank(self) -> int:
        """How many triplets there are."""
        return self.s.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """That of the matrix."""
        return self.u.shape[0], self.v.shape[0]

    def top(self, rank: int) -> Triplets:
        """The first `rank`, which are the largest of a decomposition."""
        return Triplets(self.u[:, :rank], self.s[:rank], self.v[:, :rank])

    def to(self, dtype: torch.dtype) -> Triplets:
        """The same in another dtype."""
        return Triplets(self.u.to(dtype), self.s.to(dtype), self.v.to(dtype))

    def scaled(self, factor: float) -> Triplets:
        """The triplets of `factor` times the matrix; the sign goes to u."""
        return Triplets(self.u if factor >= 0 else -self.u, self.s * abs(factor), self.v)

    def matrix(self) -> Tensor:
        """The product, (m, n), of the dtype of s."""
        u, v = self.u.to(self.s.dtype), self.v.to(self.s.dtype)
        return (u * self.s) @ v.T
