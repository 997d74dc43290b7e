"""Products of two thin matrices, worked on by their factors: nothing of the product's own size is ever formed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.errors import ParameterError
from taskvec.ops.spectral import NOISE, Leading, decompose
from taskvec.ops.triplets import Triplets


def core(
    left: Float[Tensor, "m rank"], right: Float[Tensor, "rank n"]
) -> tuple[Float[Tensor, "m a"], Float[Tensor, "a b"], Float[Tensor, "n b"]]:
    """q, c, p with orthonormal columns in q and p and left @ right = q c pᵀ; c is at most rank x rank."""
    q, upper = torch.linalg.qr(left)
    p, lower = torch.linalg.qr(right.T)
    return q, upper @ lower.T, p


def recompressed(left: Float[Tensor, "m rank"], right: Float[Tensor, "rank n"], rank: int | None = None) -> Triplets:
    """The `rank` largest singular triplets of left @ right (default: all that it can have), by QR and a small SVD.

    The best approximation of that rank: its squared error is the sum of the squares of the singular values dropped.

    Raises:
        ParameterError: more than the min(m, n) triplets that such a matrix has.
    """
    most = min(left.shape[0], right.shape[1])
    if rank is not None and not 0 <= rank <= most:
        raise ParameterError(f"rank={rank}: a matrix {left.shape[0]} x {right.shape[1]} has {most} triplets.")
    q, middle, p = core(left, right)
    found = decompose(middle)
    return Triplets(q @ found.u, found.s, p @ found.v).top(found.rank if rank is None else rank)


def leading_of_product(left: Float[Tensor, "m rank"], right: Float[Tensor, "rank n"], rank: int) -> Leading:
    """As `spectral.leading`, of left @ right, which is not formed: fewer triplets where the product has fewer."""
    found = recompressed(left, right)
    kept = min(rank, int((found.s > NOISE * found.s[:1]).sum())) if found.rank else 0
    return Leading(found.top(kept), "factors" if kept else "zero", 0.0)


def norm(left: Float[Tensor, "m rank"], right: Float[Tensor, "rank n"]) -> float:
    """The Frobenius norm of left @ right, accurate to rounding even where terms cancel."""
    return float(torch.linalg.matrix_norm(core(left, right)[1]))
