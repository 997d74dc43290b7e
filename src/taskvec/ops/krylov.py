"""Symmetric operators known by their products alone: largest eigenpairs, in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.errors import NonFiniteError, ParameterError

Product = Callable[[Tensor], Tensor]
"""From a vector (size,) to the operator's image of it; float64 both."""
_DEPENDENT = 1e-10  # what is left of a direction, relative to it, when it lies in the span already


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Eigenpairs:
    """`vectors` (size, count) are orthonormal; `residuals` are the norms ‖A v − λ v‖; `products` were spent."""

    values: Float[Tensor, " count"]
    vectors: Float[Tensor, "size count"]
    residuals: Float[Tensor, " count"]
    products: int


def largest_eigenpairs(
    product: Product,
    size: int,
    count: int,
    *,
    block: int = 4,
    tolerance: float = 1e-6,
    budget: int | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The `count` largest eigenvalues of a symmetric operator, by block Lanczos with full reorthogonalization.

    Rayleigh–Ritz on the whole Krylov space of a random block, so the residuals are those of the pairs themselves and
    cost no product. Source: Golub and Underwood, "The block Lanczos method", 1977.

    Args:
        product: the operator.
        size: of its vectors.
        count: how many pairs; all of them for `size`.
        block: directions a step; an eigenvalue that occurs more often than that may be found less often than it occurs.
        tolerance: stop when every residual is at most this share of the largest eigenvalue's size.
        budget: stop after so many products, converged or not; None: when the space is exhausted.
        seed: of the start.

    Raises:
        ParameterError: not 1 ≤ count ≤ size, or a block below 1. NonFiniteError: a product is not finite.
    """
    if not 1 <= count <= size or block < 1:
        raise ParameterError(f"count={count} eigenpairs with block={block} of an operator of size {size}.")
    generator = torch.Generator().manual_seed(seed)
    basis = torch.empty(size, 0, dtype=torch.float64)
    images = torch.empty_like(basis)
    budget = size if budget is None else max(budget, count)
    while True:
        fresh = images[:, -block:] if basis.shape[1] else _random(size, block, generator)
        fresh = _independent(fresh, basis)[:, : size - basis.shape[1]]
        while not fresh.shape[1]:  # an invariant space is complete; go on outside it
            fresh = _independent(_random(size, block, generator), basis)[:, : size - basis.shape[1]]
        basis = torch.cat([basis, fresh], dim=1)
        images = torch.cat([images, _images(product, fresh)], dim=1)
        if basis.shape[1] < count:
            continue
        found = _ritz(basis, images, count)
        converged = bool((found.residuals <= tolerance * found.values.abs().max()).all())
        if converged or basis.shape[1] >= min(budget, size):
            return found


def _random(size: int, block: int, generator: torch.Generator) -> Tensor:
    return torch.randn(size, block, dtype=torch.float64, generator=generator)


def _independent(fresh: Tensor, basis: Tensor) -> Tensor:
    """Orthonormal columns that span what `fresh` adds to the orthonormal `basis`."""
    whole = basis
    for column in fresh.T:
        left = column
        for _ in range(2):  # twice is enough
            left = left - whole @ (whole.T @ left)
        if left.norm() > _DEPENDENT * column.norm():
            left = left / left.norm()
            left = left - whole @ (whole.T @ left)
            whole = torch.cat([whole, (left / left.norm())[:, None]], dim=1)
    return whole[:, basis.shape[1] :]


def _images(product: Product, columns: Tensor) -> Tensor:
    images = torch.stack([product(column) for column in columns.T], dim=1)
    if not images.isfinite().all():
        raise NonFiniteError("the operator gives products that are not finite.", "check the weights for NaN and Inf.")
    return images


def _ritz(basis: Tensor, images: Tensor, count: int) -> Eigenpairs:
    small = basis.T @ images
    values, rotation = torch.linalg.eigh((small + small.T) / 2)
    values, rotation = values.flip(0)[:count], rotation.flip(1)[:, :count]
    vectors = basis @ rotation
    residuals = (images @ rotation - vectors * values).norm(dim=0)
    return Eigenpairs(values=values, vectors=vectors, residuals=residuals, products=basis.shape[1])
