"""TSV-Merge: the tasks' leading singular triplets, made orthogonal to each other and added (arXiv:2412.00081)."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from taskvec.errors import ParameterError
from taskvec.methods._parameters import Coefficients, Fraction, Range
from taskvec.methods._spectral import spectral_method
from taskvec.methods._triplets import Wanted
from taskvec.ops.triplets import Triplets


def _wanted(
    shape: tuple[int, int],
    tasks: int,
    *,
    density: float | None,
    orthogonalizer: str,
    overcomplete: bool,
    exact: bool,
    **_: Any,
) -> Wanted:
    """The share of every task: r // T of r = min(m, n), or floor(density · r) but at least 1; none where r < T.

    Raises:
        ParameterError: T times that is more than r, and they are to be orthogonal.
    """
    (m, n), most = shape, min(shape) // tasks
    if density is None or not most:
        return Wanted(most, exact)
    rank = max(1, math.floor(density * min(m, n) + 1e-9))
    if rank > most and orthogonalizer == "polar" and not overcomplete:
        raise ParameterError(
            f"tsv_m: density={density:g} keeps {rank} triplets a task of a matrix {m} x {n}, where {tasks} tasks have "
            f"room for {most} each.",
            f"the largest density for it is {most / min(m, n):.6g} (none at all: the largest for every matrix); "
            "overcomplete=true lets them overlap.",
        )
    return Wanted(rank, exact)


@spectral_method(
    source="arXiv:2412.00081, Algorithm 1",
    wanted=_wanted,
    otherwise="average",
    laws={"permutation", "homogeneous", "zero"},
)
def tsv_m(
    spectra: Sequence[Triplets],
    *,
    density: Fraction | None = None,
    coefficients: Coefficients = 1.0,
    orthogonalizer: Literal["polar", "none"] = "polar",
    tolerance: Annotated[float, Range(0.0, 0.5, closed=True)] = 1e-6,
    overcomplete: bool = False,
    exact: bool = False,
) -> tuple[Triplets, Mapping[str, float]]:
    """The sum of the tasks' low-rank deltas with their singular vectors made orthogonal to those of other tasks.

    Each delta of r = min(m, n) is cut to its k = r // T largest triplets; the left vectors of all tasks side by side
    are replaced by the nearest orthonormal ones (their polar factor), the right ones too, and the singular values
    stay: M = U⊥ diag(c s) V⊥ᵀ. Other tensors, and matrices with fewer rows or columns than tasks, get the mean of
    the deltas. The norm grows like √T, which is why the scale 1 is near the best one.

    Zero deltas contribute nothing, and keep their share of the rank. Tasks that are equal, or opposed, get the average
    of their truncated deltas; nearly equal ones keep their difference, amplified: a larger `tolerance` averages
    them too. A merge of adapters or of `tsv` files never forms their deltas, and the result is factored.

    Args:
        spectra: the k largest triplets of each task.
        density: the share of each matrix's rank that is kept of every task, at most 1/T; default r // T triplets.
        coefficients: multiply the deltas of the matrices; one number, or one a task.
        orthogonalizer: "none" adds the truncated deltas as they are (then any density will do).
        tolerance: directions of the vectors side by side weaker than this share of the strongest are left out.
        overcomplete: allow more than r triplets in all, which cannot all be orthogonal to each other: the tasks then
            share directions (at density 1, square matrices are averaged).
        exact: singular value decompositions in float64 throughout, several times slower. Without it the triplets have
            a relative residual of at most 1e-5, and the merge of real deltas differs by about 1e-4.

    Differs from the paper: linearly dependent directions are left out instead of being made up, triplets that are
    rounding (2^-20 of a delta's largest) do not take part, and matrices with min(m, n) < T are averaged.
    """
    from taskvec.ops.whitening import orthogonalized, side_by_side

    factors = coefficients if isinstance(coefficients, tuple) else (coefficients,) * len(spectra)
    weighted = [x.scaled(c) if c else x.top(0) for x, c in zip(spectra, factors, strict=True)]
    if orthogonalizer == "none":
        return side_by_side(weighted)[0], {}
    found = orthogonalized(weighted, route="svd" if exact else "eigh", tolerance=tolerance)
    return found.merged, found.notes()
