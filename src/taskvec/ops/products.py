"""Matrices kept as products of two thin ones: decomposed and projected through QR cores, never multiplied out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from taskvec.ops.spectral import decompose
from taskvec.ops.triplets import Triplets


@final
@dataclass(frozen=True, eq=False, slots=True)
class Product:
    """left (m, q) and right (q, n): the matrix left @ right, of their dtype."""

    left: Tensor
    right: Tensor


Matrix = Tensor | Product


def triplets_of(matrix: Matrix, rank: int | None = None) -> Triplets:
    """The `rank` largest singular triplets (default: all that the form of the matrix allows); a zero matrix has none.

    Those that rounding cannot tell from 0 are left out: s ≤ max(m, n) · eps · s₁, as numerical ranks are counted.
    """
    if isinstance(matrix, Product):
        left, core_left = torch.linalg.qr(matrix.left)
        right, core_right = torch.linalg.qr(matrix.right.T)
        core = decompose(core_left @ core_right.T)
        found = Triplets(left @ core.u, core.s, right @ core.v)
        found = found if rank is None else found.top(rank)
    elif matrix.any():
        found = decompose(matrix, rank)
    else:
        found = Triplets(matrix[:, :0], matrix[0, :0], matrix[:0].T)
    longest = max(found.u.shape[0], found.v.shape[0])
    kept = found.s > longest * torch.finfo(found.s.dtype).eps * (found.s[0] if found.rank else 0.0)
    return found.top(int(kept.sum()))


def projected_norm(columns: Tensor, matrix: Matrix) -> float:
    """‖columnsᵀ · matrix‖_F for columns (m, k), as float64."""
    if isinstance(matrix, Product):
        core = torch.linalg.qr(matrix.right.T).R
        return _norm((columns.to(core.dtype).T @ matrix.left) @ core.T)
    return _norm(columns.to(matrix.dtype).T @ matrix)


def frobenius_norm(matrix: Matrix) -> float:
    """‖matrix‖_F, as float64."""
    if isinstance(matrix, Product):
        return _norm(torch.linalg.qr(matrix.left).R @ torch.linalg.qr(matrix.right.T).R.T)
    return _norm(matrix)


def _norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))
