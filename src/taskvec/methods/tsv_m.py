"""TSV-Merge: the tasks' leading singular triplets, made orthogonal to each other and added (arXiv:2412.00081)."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from taskvec.errors import ParameterError
from taskvec.methods._parameters import Coefficients, Fraction, Range
from taskvec.methods._spectral import spectral_method
from taskvec.ops.triplets import Triplets


def _rank(shape: tuple[int, int], tasks: int, *, density: float | None, **_: Any) -> int:
    """r // T of r = min(m, n), or floor(density · r) but at least 1; 0 where there are more tasks than that.

    Raises:
        ParameterError: T times that is more than r.
    """
    most = min(shape) // tasks
    if density is None or not most:
        return most
    rank = max(1, math.floor(density * min(shape) * (1 + 2.0**-50)))
    if rank > most:
        m, n = shape
        raise ParameterError(
            f"tsv_m: density={density:g} keeps {rank} of the {min(m, n)} triplets of a matrix {m} x {n}, "
            f"and {tasks} tasks have room for {most} each.",
            f"the largest density for it is {most / min(m, n):.6g} (leave it out for that in every matrix).",
        )
    return rank


@spectral_method(
    source="arXiv:2412.00081, Algorithm 1",
    rank=_rank,
    otherwise="average",
    laws={"permutation", "homogeneous", "zero"},
)
def tsv_m(
    spectra: Sequence[Triplets],
    *,
    density: Fraction | None = None,
    coefficients: Coefficients = 1.0,
    orthogonalizer: Literal["eigh", "svd", "newton_schulz"] = "eigh",
    tolerance: Annotated[float, Range(0.0, 0.5, closed=True)] = 1e-6,
) -> tuple[Triplets, Mapping[str, float]]:
    """The sum of the tasks' low-rank deltas with their singular vectors made orthogonal to those of other tasks.

    Each delta of r = min(m, n) is cut to its k = r // T largest triplets; the left vectors of all tasks side by side
    are replaced by the nearest orthonormal ones (their polar factor), the right ones too, and the singular values
    stay: M = U⊥ diag(c s) V⊥ᵀ. Other tensors, and matrices with fewer rows or columns than tasks, get the mean of
    the deltas. The norm grows like √T, which is why the scale 1 is near the best one.

    Zero deltas contribute nothing, and keep their share of the rank. Tasks that are equal get their average of the
    truncated delta; nearly equal ones keep their difference, amplified: a larger `tolerance` averages them too.

    Args:
        spectra: the k largest triplets of each task.
        density: the share of each matrix's rank that is kept of every task, at most 1/T; default r // T triplets.
        coefficients: multiply the deltas; one number, or one a task.
        orthogonalizer: how the polar factors are computed: from the eigenvectors of the Gram matrix, by singular
            values, or by products alone.
        tolerance: directions of the concatenated vectors weaker than this share of the strongest are left out.

    Differs from the paper: linearly dependent directions are left out instead of being made up, triplets that are
    rounding noise (2^-20 of the largest) do not take part, and matrices with min(m, n) < T are averaged.
    """
    from taskvec.ops.whitening import orthogonalized

    factors = coefficients if isinstance(coefficients, tuple) else (coefficients,) * len(spectra)
    found = orthogonalized(
        [x.scaled(c) if c else x.top(0) for x, c in zip(spectra, factors, strict=True)],
        route=orthogonalizer,
        tolerance=tolerance,
    )
    notes = {
        "dropped": max(found.left.dropped, found.right.dropped),
        "condition": max(found.left.condition, found.right.condition),
        "alike": len(found.alike),
    }
    return found.merged, notes
