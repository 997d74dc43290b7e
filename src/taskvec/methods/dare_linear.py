"""DARE under the name that mergekit and PEFT give it, with their dialects (Yu et al., arXiv:2311.03099)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from taskvec.methods._dialects import Dialect, check_sum, only_in
from taskvec.methods._drop import add_kernel, divisors_of, drop_and_add, left_over, masked, whole_coefficients
from taskvec.methods._method import Fold, merge_method
from taskvec.methods._parameters import Coefficients, Density, Seed, shares
from taskvec.methods._place import Place

if TYPE_CHECKING:
    from torch import Tensor


def _check(*, dialect: Dialect, coefficients: Any, normalize: bool, rescale: bool, **_: Any) -> None:
    only_in(("mergekit",), method="dare_linear", dialect=dialect, normalize=(normalize, False), rescale=(rescale, True))
    check_sum("dare_linear", coefficients, normalize)


def _folds(*, dialect: Dialect, rescale: bool, **_: Any) -> tuple[Fold, ...]:
    return (left_over(masked),) if dialect == "mergekit" and rescale else ()


@merge_method(
    source="arXiv:2311.03099, equations 1-3",
    folds=_folds,
    kernel=add_kernel,
    weigh=whole_coefficients,
    check=_check,
    laws={"permutation", "homogeneous", "zero", "additive"},
    dialects={"mergekit": {"density": 1.0}},
)
def dare_linear(
    deltas: Float[Tensor, task * shape],
    *,
    density: Density = 0.8,
    coefficients: Coefficients = 1.0,
    seed: Seed = 0,
    dialect: Dialect = "paper",
    normalize: bool = False,
    rescale: bool = True,
    state: Any,
    at: Place,
) -> Float[Tensor, "*shape"]:
    """Keep each entry with probability `density`, divide it by the density, and add up: Σ c_t [u < d] δ_t / d.

    The same as `dare`, entry by entry, at the same seed.

    Without bias: the mean over seeds is Σ c_t δ_t. Equal tasks draw different entries. Zero input: 0; opposed tasks do
    not cancel. Density 1 is task arithmetic. A 0-d tensor is kept or dropped as a whole; an empty one stays empty.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: probability of keeping an entry (1 - the paper's drop rate), in (0, 1]; one number, or one a task.
        coefficients: c_t, one number or one a task.
        seed: which entries are kept.
        dialect: "mergekit" rescales each tensor to the L1 norm that it had, instead of by 1 / density; "peft" is the
            paper's.
        normalize: whether to divide by the sum of the coefficients (mergekit).
        rescale: whether to rescale at all (mergekit).
        state: how much of each task's L1 norm is left in this tensor (mergekit).
        at: where the block lies.

    Differs from the paper: nothing.
    """
    divisors = divisors_of(dialect, density, rescale, state)
    weights = shares(coefficients, normalize)
    return drop_and_add(deltas, at=at, density=density, coefficients=weights, seed=seed, divisors=divisors)
