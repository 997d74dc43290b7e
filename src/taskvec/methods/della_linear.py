"""DELLA without the election (Deep, Bhardwaj and Poria, 2024, arXiv:2406.11617)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from taskvec.methods._dialects import TwoDialects, check_sum, only_in
from taskvec.methods._drop import whole_coefficients
from taskvec.methods._parameters import Coefficients, Density, NonNegative, Seed, shares
from taskvec.methods._place import Place
from taskvec.methods._ranked import check_window, drop_block, drop_ranked, ranked_method
from taskvec.ops.signs import column

if TYPE_CHECKING:
    from torch import Tensor


def _check(
    *, density: Any, epsilon: float, dialect: TwoDialects, coefficients: Any, normalize: bool, rescale: bool, **_: Any
) -> None:
    check_window("della_linear", density, epsilon)
    only_in(
        ("mergekit",), method="della_linear", dialect=dialect, normalize=(normalize, False), rescale=(rescale, True)
    )
    check_sum("della_linear", coefficients, normalize)


def _kernel(block: Any, *, coefficients: Any, normalize: bool, **options: Any) -> Any:
    rows = drop_block(block, **options)
    out = np.zeros(block.shape[1])
    for weight, row in zip(shares(coefficients, normalize), rows, strict=True):
        out += weight * row
    return out


@ranked_method(
    source="arXiv:2406.11617, section 3.1",
    kernel=_kernel,
    weigh=whole_coefficients,
    check=_check,
)
def della_linear(
    deltas: Float[Tensor, task * shape],
    *,
    density: Density = 0.7,
    epsilon: NonNegative = 0.07,
    seed: Seed = 0,
    dialect: TwoDialects = "paper",
    coefficients: Coefficients = 1.0,
    normalize: bool = False,
    rescale: bool = True,
    state: Any,
    at: Place,
) -> Float[Tensor, "*shape"]:
    """Keep large entries with a higher probability than small ones, divide by it, and add up: Σ c_t [u < p] δ_t / p.

    In each row of m entries, with ranks 0, …, m - 1 by ascending |x| (equal ones by position):
    p = density - ε + 2 ε rank / (m - 1). A vector is one row; of anything larger each slice of the first axis is one.

    Without bias: the mean over seeds is Σ c_t δ_t. Equal tasks draw different entries; opposed ones do not cancel.
    Zero input: 0. Rows of one entry, and 0-d tensors, stay with the probability density; density 1 is task arithmetic,
    whatever ε; ε = 0 is `dare_linear`. Empty stays empty.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: the mean probability of keeping an entry, in (0, 1]; one number, or one a task.
        epsilon: half the width of the window of probabilities; density ± epsilon must lie in (0, 1].
        seed: which entries are kept.
        dialect: "mergekit" ranks along the second axis and rescales each tensor to the L1 norm that it had.
        coefficients: c_t, one number or one a task.
        normalize: whether to divide by the sum of the coefficients (mergekit).
        rescale: whether to rescale at all (mergekit).
        state: how much of each task's L1 norm is left in this tensor (mergekit).
        at: where the block lies.

    Differs from the paper: a plain sum (the published baselines without election divide by the sum of coefficients).
    """
    options: Any = {"density": density, "epsilon": epsilon, "rescale": rescale, "state": state}
    left = drop_ranked(deltas, at=at, seed=seed, dialect=dialect, **options)
    return (column(shares(coefficients, normalize), deltas) * left).sum(0)
