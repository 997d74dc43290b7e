"""Singular triplets of a matrix: all of them, or the largest by the cheapest route that is accurate enough.

    svd      LAPACK's singular value decomposition in float64
    gram64   eigenvectors of the Gram matrix of the short side, in float64
    gram32   the same in float32; taken where the triplets wanted are strong enough for it
    sampled  steps of subspace iteration on a random start that is always the same; taken where a share of the
             energy is asked for, and what is seen to be missing proves that it is reached

Each route ends with the Rayleigh–Ritz step on what it found: the triplets are those of the matrix within the space that
was found, and the residual ‖Aᵀu − s v‖ of all of them is stated. They are the exact triplets of a matrix that differs
from A by at most √2 times that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.errors import ConvergenceError
from taskvec.ops.triplets import Triplets

Route = Literal["zero", "factors", "svd", "gram64", "gram32", "sampled"]
NOISE = 2.0**-20  # singular values below this share of a matrix's largest are the rounding of its float32 entries
SMALL = 64  # a side up to which nothing but "svd" is worth a thought
_SAFE = 2.0**-10  # squares of the singular values wanted, relative to the largest, above which float32 will do
_RESIDUAL = 1e-5  # relative, above which "gram32" is not accepted
FAILED: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
_MORE = 16  # columns beyond the rank, so that the last triplets wanted do not mix with the next ones
_STEPS, _SEED = 2, 20241200081  # of "sampled": iterations, the start
_HOPELESS = 40.0  # times the energy that may be missing, from which two iterations do not come down
_NEAR = 20  # binary orders of magnitude that are as good as 1
_PROBES = 8  # vectors by which a residual is estimated
_PARTS = 8  # of a Gram matrix, which are computed once for both triangles
# Picoseconds for (m n², n³, m n k) on one core of an AVX-512 server, m ≥ n; ratios are what counts.
_COSTS: Mapping[Route, tuple[float, float, float]] = {
    "svd": (190.0, 220.0, 0.0),
    "gram64": (21.0, 155.0, 120.0),
    "gram32": (11.0, 78.0, 80.0),
}


@final
@dataclass(frozen=True, eq=False, slots=True)
class Leading:
    """The largest triplets of a matrix, the route that found them, and ‖AᵀU − V diag(s)‖_F relative to ‖s‖.

    The residual is estimated from 8 products, within about a quarter; that of "sampled" is exact. The triplets keep at
    least the share `energy` of the squared norm that the best matrix of that rank keeps.
    """

    triplets: Triplets
    route: Route
    residual: float
    energy: float = 1.0


def decompose(matrix: Float[Tensor, "m n"], rank: int | None = None) -> Triplets:
    """The `rank` largest singular triplets of `matrix`, of its dtype; all min(m, n) of them by default.

    Raises:
        ConvergenceError: LAPACK's routine does not converge, nor do the eigenvectors of the Gram matrix.
    """
    try:
        found = _svd(matrix)
    except FAILED:
        found = _by_eigenvectors(matrix)
    return found.top(min(matrix.shape) if rank is None else rank)


def _first(attempts: Sequence[Callable[[], Triplets]], shape: Sequence[int]) -> tuple[int, Triplets]:
    """The first attempt that converges, by its number, and what it gives."""
    for number, attempt in enumerate(attempts):
        try:
            return number, attempt()
        except FAILED:
            continue
    m, n = shape
    raise ConvergenceError(
        f"the singular value decomposition of a matrix {m} x {n} does not converge.", "look at its values."
    )


def _svd(matrix: Tensor) -> Triplets:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return Triplets(u, s, vh.T)


def _by_eigenvectors(matrix: Tensor) -> Triplets:
    """All triplets from the eigenvectors of the Gram matrix of the short side, in float64."""
    if matrix.shape[0] < matrix.shape[1]:
        found = _by_eigenvectors(matrix.T)
        return Triplets(found.v, found.s, found.u)
    exact = matrix.double()
    try:
        v = torch.linalg.eigh(exact.T @ exact).eigenvectors.flip(1)
        u, upper = torch.linalg.qr(exact @ v)
    except FAILED as error:
        m, n = matrix.shape
        raise ConvergenceError(
            f"the singular value decomposition of a matrix {m} x {n} does not converge.", "look at its values."
        ) from error
    s = upper.diagonal()
    return Triplets((u * torch.where(s < 0, -1.0, 1.0)).to(matrix), s.abs().to(matrix), v.to(matrix))


def shelf(rank: int, most: int) -> int:
    """The least of `most`, ⌊most / 2⌋, ⌊most / 4⌋, … that is not below `rank`.

    Decompositions are made to such ranks and cut, so that subsets of the tasks want the very same ones.
    """
    while most // 2 >= max(rank, 1):
        most //= 2
    return most


def cheapest(m: int, n: int, rank: int) -> Route:
    """The route that the cost model picks for the `rank` largest triplets of a matrix m x n."""
    short, long = sorted((m, n))
    if short <= SMALL:
        return "svd"
    work = (long * short**2, short**3, long * short * rank)
    costs = {route: sum(c * w for c, w in zip(price, work, strict=True)) for route, price in _COSTS.items()}
    return min(costs, key=costs.__getitem__)


def leading(matrix: Float[Tensor, "m n"], rank: int, *, route: Route | None = None, energy: float = 1.0) -> Leading:
    """The `rank` largest triplets of a finite matrix, or fewer: those below 2^-20 of the largest are rounding.

    Any magnitude decomposes like 1, since extreme matrices are divided by a power of two first. The result depends on
    the matrix and the rank alone.

    Args:
        matrix: float32 or float64.
        rank: how many triplets, at most min(m, n).
        route: "svd", "gram64" or "gram32"; default: what the cost model picks. "gram32" goes on to "gram64" where
            float32 would lose digits of the triplets wanted, or leaves a relative residual above 1e-5.
        energy: a share of what the best triplets keep that will do: "sampled" is tried, and taken where it is certain
            to reach that.

    Raises:
        ConvergenceError: no route converges.
    """
    m, n = matrix.shape
    largest = max(abs(float(x)) for x in matrix.aminmax()) if matrix.numel() else 0.0
    if largest == 0.0 or rank == 0:
        return Leading(Triplets.none(m, n), "zero", 0.0)
    exponent = math.frexp(largest)[1]
    exponent = exponent if abs(exponent) > _NEAR else 0
    tall = matrix.T.contiguous() if m < n else matrix
    if exponent:
        tall = tall * math.ldexp(1.0, -max(exponent, -120))
        if exponent < -120:  # 2^149 is beyond float32
            tall *= math.ldexp(1.0, -120 - exponent)
    found = _sampled(tall.float(), rank, energy) if energy < 1.0 and min(m, n) > SMALL else None
    if found is None:
        found = _taken(tall, rank, route or cheapest(m, n, rank), (m, n))
    u, v = (found.triplets.v, found.triplets.u) if m < n else (found.triplets.u, found.triplets.v)
    triplets = Triplets(u, found.triplets.s * math.ldexp(1.0, exponent), v)
    return Leading(triplets, found.route, found.residual, found.energy)


def leading_for(matrix: Float[Tensor, "m n"], rank: int, *, exact: bool = False) -> Leading:
    """The `rank` largest triplets as merges take them: found to the next shelf and cut; `exact`: by "svd"."""
    found = leading(matrix, shelf(rank, min(matrix.shape)) if rank else 0, route="svd" if exact else None)
    return Leading(found.triplets.top(rank), found.route, found.residual)


def _taken(tall: Tensor, rank: int, route: Route, shape: Sequence[int]) -> Leading:
    """The triplets of a tall matrix whose largest entry is near 1, by a route or the next better one."""
    if route == "gram32":
        try:
            found = _by_gram(tall.float(), rank, least=_SAFE)
            residual = _residual(tall.float(), found, probes=_PROBES)
            if found.rank == rank and residual <= _RESIDUAL:
                return Leading(found, route, residual)
        except FAILED:
            pass
    exact = tall.double()
    attempts: dict[Route, Callable[[], Triplets]] = {
        "gram64": lambda: _by_gram(exact, rank),
        "svd": lambda: _svd(exact).top(rank),
    }
    order: tuple[Route, Route] = ("svd", "gram64") if route == "svd" else ("gram64", "svd")
    number, found = _first([attempts[r] for r in order], shape)
    found = found.top(int((found.s > NOISE * found.s[0]).sum()))
    residual = _residual(exact, found, probes=_PROBES)
    if route != "svd":
        found = Triplets(found.u.to(tall.dtype), found.s, found.v.to(tall.dtype))
    return Leading(found, order[number], residual)


def _sampled(tall: Tensor, rank: int, energy: float) -> Leading | None:
    """Subspace iteration from a start that depends on the shape alone; None where it is not certain to do.

    With Q the space found, no triplets keep more than the best within Q and all that Q misses together: ‖A‖² − ‖QᵀA‖².
    """
    whole = float(torch.linalg.vector_norm(tall, dtype=torch.float64)) ** 2
    basis = torch.linalg.qr(tall @ _start(tall, min(rank + _MORE, tall.shape[1]))).Q
    for step in range(_STEPS + 1):
        image = basis.T @ tall
        missing = max(0.0, whole - float(torch.linalg.vector_norm(image, dtype=torch.float64)) ** 2)
        if missing > _HOPELESS * (1.0 - energy) * whole:
            return None
        squares, turn = (x.flip(-1) for x in torch.linalg.eigh(column_gram(image.T.double())))
        kept = float(squares[:rank].sum())
        if kept >= energy * (kept + missing):
            s = squares[:rank].clamp(min=0.0).sqrt()
            live = s > NOISE * s[0]
            turn, s = turn[:, :rank][:, live], s[live]
            u, v = basis @ turn.float(), image.T @ (turn / s).float()
            found = Triplets(u, s, v)
            return Leading(found, "sampled", _residual(tall, found), kept / (kept + missing))
        if step < _STEPS:
            basis = torch.linalg.qr(tall @ torch.linalg.qr(image.T).Q).Q
    return None


@functools.lru_cache(maxsize=4)
def _start(like: Tensor, columns: int) -> Tensor:
    """Fixed normal numbers: as many rows as `like` has columns, where it lies."""
    generator = torch.Generator(like.device).manual_seed(_SEED)
    return torch.randn(like.shape[1], columns, generator=generator, device=like.device).to(like.dtype)


def _by_gram(matrix: Tensor, rank: int, *, least: float = 0.0) -> Triplets:
    """By the Gram matrix in the dtype of `matrix`; nothing, where the squares come near `least` of the largest."""
    wide = matrix.shape[0] < matrix.shape[1]
    tall = matrix.T if wide else matrix
    squares, vectors = torch.linalg.eigh(column_gram(tall))
    if rank == 0 or (least and float(squares[-rank]) < least * float(squares[-1])):
        return Triplets.none(*matrix.shape)
    basis = vectors[:, -rank - _MORE :].flip(1)
    image = (tall @ basis).double()
    squares, turn = (x.flip(-1)[..., :rank] for x in torch.linalg.eigh(column_gram(image)))
    s = squares.clamp(min=0.0).sqrt()
    kept = s > NOISE * s[0] if least else s > 0.0
    u = (image @ (turn[:, kept] / s[kept])).to(matrix.dtype)
    v = (basis.double() @ turn[:, kept]).to(matrix.dtype)
    return Triplets(v, s[kept], u) if wide else Triplets(u, s[kept], v)


def _residual(tall: Tensor, found: Triplets, *, probes: int | None = None) -> float:
    """‖Aᵀu − v diag(s)‖_F relative to ‖s‖; from its products with some vectors of fixed signs, or exact."""
    if not found.rank:
        return 0.0
    u, s, v = (x.to(tall.dtype) for x in (found.u, found.s, found.v))
    rest = tall.T @ u - v * s if probes is None else _applied(tall, u, s, v, _start(u, probes).sign())
    return float(torch.linalg.vector_norm(rest) / torch.linalg.vector_norm(s)) / math.sqrt(probes or 1)


def _applied(tall: Tensor, u: Tensor, s: Tensor, v: Tensor, signs: Tensor) -> Tensor:
    rest: Tensor = tall.T @ (u @ signs) - v @ (s[:, None] * signs)
    return rest


def column_gram(columns: Float[Tensor, "m n"]) -> Float[Tensor, "n n"]:
    """columnsᵀ columns: the blocks of the upper triangle are computed, those of the lower one copied."""
    n = columns.shape[1]
    if n <= SMALL:
        return columns.T @ columns
    found, step = columns.new_empty(n, n), -(-n // _PARTS)
    for start in range(0, n, step):
        stop = min(start + step, n)
        found[start:stop, start:] = columns[:, start:stop].T @ columns[:, start:]
        found[stop:, start:stop] = found[start:stop, stop:].T
    return found
