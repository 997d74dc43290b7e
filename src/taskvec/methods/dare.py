"""DARE: drop and rescale (Yu et al., ICML 2024, arXiv:2311.03099)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

from taskvec.methods._drop import add_kernel, drop_and_add, whole_coefficients
from taskvec.methods._method import merge_method
from taskvec.methods._parameters import Coefficients, Density, Seed
from taskvec.methods._place import Place

if TYPE_CHECKING:
    from torch import Tensor


@merge_method(
    source="arXiv:2311.03099, equations 1-3",
    kernel=add_kernel,
    weigh=whole_coefficients,
    laws={"permutation", "homogeneous", "zero", "additive"},
)
def dare(
    deltas: Float[Tensor, task * shape],
    *,
    density: Density = 0.8,
    coefficients: Coefficients = 1.0,
    seed: Seed = 0,
    at: Place,
) -> Float[Tensor, "*shape"]:
    """Keep each entry with probability `density`, divide it by the density, and add up: Σ c_t [u < d] δ_t / d.

    u is a function of (seed, name of the task, name of the tensor, position): the same entries are kept whatever the
    order of tasks in a mapping, and those kept at one density are kept at every larger one.

    Without bias: the mean over seeds is Σ c_t δ_t. Equal tasks draw different entries. Zero input: 0; opposed tasks do
    not cancel. Density 1 is task arithmetic. A 0-d tensor is kept or dropped as a whole; an empty one stays empty.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: probability of keeping an entry (1 - the paper's drop rate), in (0, 1]; one number, or one a task.
        coefficients: c_t, one number or one a task; 1 / T gives the mean.
        seed: which entries are kept.
        at: where the block lies.

    Differs from the paper: nothing.
    """
    return drop_and_add(deltas, at=at, density=density, coefficients=coefficients, seed=seed, divisors=density)
