"""Iso-CTS: common and task-specific directions, all at one strength (Marczak et al., arXiv:2502.04959)."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from taskvec.checkpoint.decompositions import leading_of
from taskvec.methods._method import merge_method
from taskvec.methods._parameters import Range, Share
from taskvec.methods._place import Place
from taskvec.ops.isotropic import isotropic_subspaces


@merge_method(
    source="arXiv:2502.04959, Iso-CTS",
    acts_on="matrix",
    otherwise="average",
    laws={"permutation", "homogeneous", "zero"},
)
def iso_cts(
    deltas: Float[Tensor, "task m n"],
    *,
    common: Share = 0.8,
    tolerance: Annotated[float, Range(0.0, 0.5, closed=True)] = 1e-6,
    at: Place,
) -> Float[Tensor, "m n"]:
    """The leading directions of the sum, and of what each delta has beside them, made orthogonal, at one strength.

    Of r = min(m, n) directions, c are those of Σ δ_t with the largest singular values, left vectors U_c; each task adds
    the n_t largest of δ_t - U_c U_cᵀ δ_t, with n_t = round((r - floor(common · r)) / T) and c = r - n_t T. All left
    vectors side by side are replaced by their polar factor U⊥, the right ones by V⊥: the merge is σ̄ U⊥ V⊥ᵀ, with σ̄ the
    mean of the r singular values. n_t = 0 (common = 1, or many tasks and a small matrix): Iso-C.

    Zero and opposed inputs give 0, equal ones c + n_t of their own directions: those that several tasks share count
    once. Directions whose singular value is at most `tolerance` times the root of Σ ‖δ_t‖² are left out. Tensors that
    are 0-d, empty or vectors are not matrices.

    Args:
        deltas: one delta a task, stacked on axis 0.
        common: the share of the directions that comes from the sum.
        tolerance: what counts as 0, relative to the inputs, and among vectors to their strongest direction.
        at: is told how many directions were dropped.

    Differs from the paper: arbitrary directions (rank-deficient sums, tasks that coincide) are left out; n_t is at most
    floor(r / T), where the published rounding would leave c negative.
    """
    found = isotropic_subspaces(deltas, common=common, tolerance=tolerance, leading=leading_of)
    at.report("dropped", found.dropped)
    return found.matrix
