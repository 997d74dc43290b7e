"""Subspace Boosting: the weak directions of a merge made stronger (Skorobogat et al., arXiv:2506.16506)."""

from collections.abc import Mapping
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from taskvec.methods import get
from taskvec.methods._method import MergeMethod, merge_method
from taskvec.methods._over import folds_of, run
from taskvec.methods._parameters import Range, Share
from taskvec.methods._place import Place
from taskvec.ops.isotropic import floor_of
from taskvec.ops.reshaping import reshaped

_WHOLE = (slice(None), slice(None))


def _over(inner: MergeMethod) -> Mapping[str, Any]:
    """Its statistics are gathered as for itself, and what is no matrix is merged as without this method."""
    return {"folds": folds_of(inner), "otherwise": inner.elsewhere or inner}


@merge_method(
    source="arXiv:2506.16506, Subspace Boosting",
    acts_on="tensor",
    otherwise="task_arithmetic",
    over=_over,
    laws={"permutation", "homogeneous", "zero"},
)
def subspace_boosting(
    deltas: Float[Tensor, "task m n"],
    *,
    method: str = "task_arithmetic",
    beta: Share = 0.01,
    tolerance: Annotated[float, Range(0.0, 0.5, closed=True)] = 1e-6,
    state: Any = None,
    at: Place,
    **given: Any,
) -> Float[Tensor, "m n"]:
    """Another method's merge, with its small singular values raised to one of its larger ones.

    With δ = U diag(σ) Vᵀ the merge, and c the first position with Σ_{j ≤ c} σ_j >= beta · Σ_j σ_j, it becomes
    U diag(max(σ, σ_c)) Vᵀ. beta = 0 makes all singular values equal to the largest; beta = 1 changes nothing. Other
    tensors are what the method makes of them.

    Zero inputs give 0; one task, equal and opposed ones what the method makes of them, boosted. Directions in which
    the merge is 0 but for rounding (σ_j at most `tolerance` times the root of Σ ‖δ_t‖²) are arbitrary and stay 0.
    Tensors that are 0-d, empty or vectors are not matrices.

    Args:
        deltas: one delta a task, stacked on axis 0.
        method: the name of the method that merges; its parameters are given beside these.
        beta: the share of the nuclear norm that the unchanged directions have.
        tolerance: what counts as 0, relative to the inputs.
        state: what the method's folds gathered.
        at: where the deltas lie.
        **given: the parameters of the method.

    Differs from the paper: arbitrary directions are not raised; fused query, key and value are one matrix unless the
    layout splits them; the default of beta is that of public implementations.
    """
    merged = run(get(method), deltas, at=at, state=state, given={**given, "tolerance": tolerance}).double()
    for rows, columns in at.pieces or (_WHOLE,):
        merged[rows, columns] = _boosted(merged[rows, columns], beta, floor_of(deltas[:, rows, columns], tolerance))
    return merged


def _boosted(merged: Tensor, beta: float, floor: float) -> Tensor:
    def lift(s: Tensor) -> Tensor:
        sums = s.cumsum(0)
        at_least = s[int((sums < beta * sums[-1] * (1.0 - 2.0**-40)).sum())]
        return (at_least - s).clamp(min=0.0) * (s > floor)

    return merged if beta == 1.0 else merged + reshaped(merged, lift)
