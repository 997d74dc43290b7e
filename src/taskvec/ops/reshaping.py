"""Matrices with the singular directions of another one and other singular values, without its decomposition."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskvec.ops.spectral import FAILED, SMALL, column_gram, decompose

Curve = Callable[[Float64[Tensor, " r"]], Float64[Tensor, " r"]]
_WELL = 1e10  # squared condition of the directions wanted, up to which a Gram matrix in float64 leaves six digits


def reshaped(matrix: Float[Tensor, "m n"], curve: Curve) -> Float64[Tensor, "m n"]:
    """U diag(curve(σ)) Vᵀ with U diag(σ) Vᵀ = A the matrix, r = min(m, n) and σ in descending order; 0 where A is 0.

    By A V diag(curve(σ) / σ) Vᵀ with the eigenvectors V of the Gram matrix of the short side, where every σ whose new
    value is not 0 is above 1e-5 of the largest; else by the decomposition. On the first way σ that are 0 come out as
    up to 1e-7 of the largest.

    Raises:
        ConvergenceError: neither converges.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return reshaped(matrix.T, curve).T
    exact = matrix.double()
    if not exact.any():
        return torch.zeros_like(exact)
    found = _by_gram(exact, curve) if matrix.shape[1] > SMALL else None
    if found is None:
        x = decompose(exact)
        found = (x.u * curve(x.s)) @ x.v.T
    return found


def _by_gram(tall: Tensor, curve: Curve) -> Tensor | None:
    try:
        squares, v = (x.flip(-1) for x in torch.linalg.eigh(column_gram(tall)))
    except FAILED:
        return None
    s = squares.clamp(min=0.0).sqrt()
    values = curve(s)
    live = values != 0.0
    if bool((squares[live] * _WELL <= squares[0]).any()):
        return None
    weighted, v = v[:, live] * (values[live] / s[live]), v[:, live]
    product: Tensor = (tall @ weighted) @ v.T if 4 * v.shape[1] < len(s) else tall @ (weighted @ v.T)
    return product
