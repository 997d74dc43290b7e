"""One basis for the outputs of all tasks (KnOTS): the left singular vectors of the deltas side by side."""

from __future__ import annotations

from contextlib import suppress

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskvec.ops.spectral import FAILED, SMALL, column_gram, decompose

_GRAM = 2.0**-21  # singular values below this share of the largest are rounding in a Gram matrix
_NOISE = 2.0**-40  # coordinates below this share of the largest are rounding


def common_basis(stacked: Float[Tensor, "task m n"], *, tolerance: float) -> Float64[Tensor, "m k"]:
    """U of [δ_1 … δ_T] = U diag(s) [V_1ᵀ … V_Tᵀ], over the directions with s > tolerance · max s; s descends."""
    beside = stacked.double().permute(1, 0, 2).reshape(stacked.shape[1], -1)
    q = None
    if beside.shape[0] > beside.shape[1]:
        q, beside = torch.linalg.qr(beside)
    if not beside.numel():
        return torch.zeros(stacked.shape[1], 0, dtype=torch.float64)
    basis = _left_vectors(beside, tolerance)
    return basis if q is None else q @ basis


def _left_vectors(wide: Tensor, tolerance: float) -> Tensor:
    """By the Gram matrix of the rows, where the tolerance is above its rounding."""
    if wide.shape[0] > SMALL and tolerance >= _GRAM:
        with suppress(FAILED):
            squares, vectors = (x.flip(-1) for x in torch.linalg.eigh(column_gram(wide.T)))
            basis: Tensor = vectors[:, squares > tolerance**2 * squares[0]]
            return basis
    found = decompose(wide)
    return found.u[:, found.s > tolerance * found.s[0]]


def coordinates(stacked: Float[Tensor, "task m n"], basis: Float64[Tensor, "m k"]) -> Float[Tensor, "task k n"]:
    """diag(s) V_tᵀ = Uᵀ δ_t of every task, float32; what is 0 but for rounding is 0, so that it has no vote."""
    found = basis.T @ stacked.double()
    largest = found.abs().amax() if found.numel() else torch.zeros(())
    return torch.where(found.abs() > _NOISE * largest, found, 0.0).float()
