"""The singular value decomposition of a matrix, whole or its largest triplets."""

from __future__ import annotations

import torch
from torch import Tensor

from taskvec.errors import ConvergenceError
from taskvec.ops.triplets import Triplets

_Failed = torch.linalg.LinAlgError  # type: ignore[attr-defined]


def decompose(matrix: Tensor, rank: int | None = None) -> Triplets:
    """The `rank` largest singular triplets of `matrix` (m, n), of its dtype; all min(m, n) of them by default.

    Raises:
        ConvergenceError: LAPACK's routine does not converge, nor do the eigenvectors of the Gram matrix.
    """
    try:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        found = Triplets(u, s, vh.T)
    except _Failed:
        found = _by_gram(matrix)
    return found.top(min(matrix.shape) if rank is None else rank)


def _by_gram(matrix: Tensor) -> Triplets:
    """All triplets from the eigenvectors of the Gram matrix of the short side, in float64."""
    if matrix.shape[0] < matrix.shape[1]:
        found = _by_gram(matrix.T)
        return Triplets(found.v, found.s, found.u)
    exact = matrix.double()
    try:
        v = torch.linalg.eigh(exact.T @ exact).eigenvectors.flip(1)
        u, upper = torch.linalg.qr(exact @ v)
    except _Failed as error:
        m, n = matrix.shape
        raise ConvergenceError(
            f"the singular value decomposition of a matrix {m} x {n} does not converge.", "look at its values."
        ) from error
    s = upper.diagonal()
    return Triplets((u * torch.where(s < 0, -1.0, 1.0)).to(matrix), s.abs().to(matrix), v.to(matrix))
