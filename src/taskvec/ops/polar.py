"""The orthogonal polar factor: the orthonormal columns nearest to given ones, by three routes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.ops.spectral import column_gram, decompose

Route = Literal["svd", "eigh", "newton_schulz"]
_WELL = 64.0  # squared condition up to which a Gram matrix in float32 leaves 5 digits
_STEPS = 60  # of Newton–Schulz: a direction of 1e-6 takes 35 to come near 1, and 6 more to reach it


@final
@dataclass(frozen=True, eq=False, slots=True)
class Polar:
    """`factor` (m, k), float64; how many directions were below the tolerance and left out; the condition of the rest.

    `route` is the one taken: a tolerance that leaves directions out sends "newton_schulz" to "eigh".
    """

    factor: Tensor
    dropped: int
    condition: float
    route: Route


def polar(
    columns: Float[Tensor, "m k"],
    *,
    tolerance: float = 1e-6,
    route: Route = "svd",
    gram: Float[Tensor, "k k"] | None = None,
) -> Polar:
    """P Qᵀ of columns = P diag(d) Qᵀ, over the directions with d > tolerance · max d, in float64.

    Columns that are linearly dependent (equal tasks) so share one direction, and no arbitrary one is made up. With
    c = max d / min d over the directions kept, the relative error is about 1e-15 c by "svd" and "newton_schulz", and
    1e-16 c² by "eigh", which decomposes the Gram matrix columnsᵀ columns only (`gram`, where `gram_of` made it).
    Columns of float32 with at least twice as many rows and c² < 64 are left in float32 there: 1e-7 c².

    More columns than rows have the transpose of their transpose's factor: rows are orthonormal there.
    """
    if not columns.numel():
        return Polar(columns.double(), 0, 1.0, route)
    missing = columns.shape[1] - columns.shape[0]
    if missing > 0:
        found = polar(columns.T, tolerance=tolerance, route=route)
        return Polar(found.factor.T, found.dropped + missing, found.condition, found.route)
    if route == "svd":
        return _by_svd(columns.double(), tolerance)
    known = gram_of(columns) if gram is None else gram
    if known.dtype == torch.float32:
        found = _by_eigh(columns, known, tolerance)
        if route == "eigh" and not found.dropped and found.condition**2 < _WELL:
            return found
    exact = columns.double()
    known = known if known.dtype == torch.float64 else column_gram(exact)
    quick = _by_newton_schulz(exact, known, tolerance) if route == "newton_schulz" else None
    return _by_eigh(exact, known, tolerance) if quick is None else quick


def gram_of(columns: Float[Tensor, "m k"]) -> Float[Tensor, "k k"]:
    """columnsᵀ columns, in float64 where columns may be nearly dependent: all but tall float32 ones."""
    tall = columns.shape[0] >= 2 * columns.shape[1] and columns.dtype == torch.float32
    return column_gram(columns if tall else columns.double())


def _by_svd(columns: Tensor, tolerance: float) -> Polar:
    x = decompose(columns)
    kept = x.s > tolerance * x.s.amax()
    return Polar(x.u[:, kept] @ x.v[:, kept].T, *_report(x.s, kept, columns.shape[1]), "svd")


def _report(d: Tensor, kept: Tensor, columns: int) -> tuple[int, float]:
    """The rank that is missing, and the condition of what is kept."""
    count = int(kept.sum())
    return columns - count, float(d[kept].amax() / d[kept].amin()) if count else 1.0


def _by_eigh(columns: Tensor, gram: Tensor, tolerance: float) -> Polar:
    squares, q = torch.linalg.eigh(gram)
    floor = max(tolerance**2, len(squares) * torch.finfo(gram.dtype).eps)
    kept = (squares > floor * squares.amax()) & (squares > 0.0)
    d, q = squares[kept].sqrt(), q[:, kept]
    factor = columns @ column_gram((q / d.sqrt()).T)
    return Polar(factor.double(), *_report(d, d > 0.0, columns.shape[1]), "eigh")


def _by_newton_schulz(columns: Tensor, gram: Tensor, tolerance: float) -> Polar | None:
    """Products only; None where a direction is below the tolerance (no Cholesky factor of gram − tolerance² max d²)."""
    norm = _largest(gram)
    if norm <= 0.0:
        return None
    floor = max(tolerance**2, len(gram) * torch.finfo(torch.float64).eps)
    eye = torch.eye(len(gram), dtype=torch.float64)
    factor, failed = torch.linalg.cholesky_ex(gram / norm - floor * eye)
    if int(failed):
        return None
    y = columns / math.sqrt(norm)
    for _ in range(_STEPS):
        inner = column_gram(y)
        if float((inner - eye).abs().amax()) < 1e-14 * len(gram):
            break
        y = 1.5 * y - 0.5 * (y @ inner)
    return Polar(y, 0, math.sqrt(1.0 / _smallest(factor, floor)), "newton_schulz")


def _largest(gram: Tensor) -> float:
    """An upper bound of the largest eigenvalue, at most 1 % above it but for unlucky starts."""
    x = gram.sum(1) + gram.diagonal()
    for _ in range(50):
        norm = float(torch.linalg.vector_norm(x))
        if norm == 0.0:
            return 0.0
        x = gram @ (x / norm)
    return min(1.01 * float(torch.linalg.vector_norm(x)), float(gram.abs().sum(1).amax()))


def _smallest(factor: Tensor, shift: float) -> float:
    """The smallest eigenvalue of L Lᵀ + shift, by inverse iteration."""
    x = torch.ones(len(factor), 1, dtype=torch.float64)
    for _ in range(50):
        x = torch.cholesky_solve(x / torch.linalg.vector_norm(x), factor)
    return 1.0 / float(torch.linalg.vector_norm(x)) + shift
