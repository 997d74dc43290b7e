"""Iso-C: the sum of the task vectors with one singular value (Marczak et al., ICML 2025, arXiv:2502.04959)."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import merge_method
from taskvec.methods._parameters import Range
from taskvec.methods._place import Place
from taskvec.ops.isotropic import isotropic_sum


@merge_method(
    source="arXiv:2502.04959, Iso-C",
    acts_on="matrix",
    otherwise="average",
    laws={"permutation", "homogeneous", "zero"},
)
def iso_c(
    deltas: Float[Tensor, "task m n"], *, tolerance: Annotated[float, Range(0.0, 0.5, closed=True)] = 1e-6, at: Place
) -> Float[Tensor, "m n"]:
    """The polar factor of the sum, times the mean of its singular values.

    With Σ δ_t = U diag(σ) Vᵀ: σ̄ U Vᵀ, σ̄ = mean of the min(m, n) values σ_j. All singular values are equal, and the
    nuclear norm is that of the sum. Other tensors get the mean of the deltas.

    One task: its own polar factor times its mean singular value, not the task itself. Zero inputs give 0, equal ones T
    times what one of them gives, opposed ones 0. Directions in which the sum is 0 but for rounding are arbitrary and
    get 0: those whose σ_j is at most `tolerance` times the root of Σ ‖δ_t‖², so that a sum that cancelled counts as 0.
    Tensors that are 0-d, empty or vectors are not matrices.

    Args:
        deltas: one delta a task, stacked on axis 0.
        tolerance: what counts as 0, relative to the inputs.
        at: is told how many directions were dropped.

    Differs from the paper: directions of a rank-deficient sum get 0 instead of full strength along arbitrary vectors,
    which made the result depend on the order of the tasks; σ̄ is still the mean over all min(m, n).
    """
    found = isotropic_sum(deltas, tolerance=tolerance)
    at.report("dropped", found.dropped)
    return found.matrix
