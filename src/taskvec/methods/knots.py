"""KnOTS: another method, applied in coordinates that all tasks share (Stoica et al., ICLR 2025, arXiv:2410.19735)."""

from collections.abc import Mapping
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from taskvec.errors import ParameterError
from taskvec.methods import get
from taskvec.methods._method import MergeMethod, merge_method
from taskvec.methods._over import folded, run
from taskvec.methods._parameters import Range
from taskvec.methods._place import Place
from taskvec.ops.alignment import common_basis, coordinates


def _over(inner: MergeMethod) -> Mapping[str, Any]:
    if inner.acts_on != "element":
        raise ParameterError(
            f"knots: method={inner.name!r} does not act on each entry by itself.",
            "name one that does, e.g. ties, dare_ties or task_arithmetic.",
        )
    return {}


@merge_method(
    source="arXiv:2410.19735, KnOTS",
    acts_on="matrix",
    otherwise="average",
    over=_over,
    laws={"permutation", "homogeneous", "zero"},
)
def knots(
    deltas: Float[Tensor, "task m n"],
    *,
    method: str = "ties",
    transpose: bool = False,
    tolerance: Annotated[float, Range(0.0, 0.5, closed=True)] = 1e-6,
    at: Place,
    **given: Any,
) -> Float[Tensor, "m n"]:
    """Another method's merge of the deltas in one basis of their outputs, for deltas of low rank (LoRA).

    The deltas (outputs, inputs) side by side are [δ_1 … δ_T] = U diag(s) [V_1ᵀ … V_Tᵀ]; the method merges the
    coordinates C_t = diag(s) V_tᵀ = Uᵀ δ_t, and U times the result is the merge. A linear method (the sum, the average)
    gives the same as without. Other tensors get the mean of the deltas.

    Zero inputs give 0; one task, equal and opposed ones what the method makes of their coordinates. Directions with
    s_j <= tolerance · max s_j are left out; where singular values are equal their directions, and with them the
    result of a method that is not linear, are arbitrary. Tensors that are 0-d, empty or vectors are not matrices.

    Args:
        deltas: one delta a task, stacked on axis 0.
        method: the name of a method that acts on each entry by itself; its parameters are given beside these.
        transpose: align the inputs instead: the deltas are stacked on top of each other.
        tolerance: which directions count.
        at: where the deltas lie.
        **given: the parameters of the method.

    Differs from the paper: a threshold of the whole model (ties, breadcrumbs, …) becomes one a matrix, of its
    coordinates; directions are cut relative to the largest singular value, not at 1e-5; biases and norms are averaged,
    where the published code makes a bias a column of its matrix and a norm a diagonal one.
    """
    inner = get(method)
    stacked = deltas.transpose(1, 2) if transpose else deltas
    basis = common_basis(stacked, tolerance=tolerance)
    aligned = coordinates(stacked, basis)
    place = Place(at.tensor, tuple(aligned.shape[1:]), 0, at.tasks, report=at.report)
    if not aligned.numel():
        return deltas[0] * 0.0
    state = folded(inner, aligned, at=place, given=given)
    merged = basis @ run(inner, aligned, at=place, state=state, given=given)
    return merged.T if transpose else merged
