"""DELLA: drop by magnitude, elect, fuse (Deep, Bhardwaj and Poria, 2024, arXiv:2406.11617)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._dialects import TwoDialects, only_in, vote_rule
from taskvec.methods._parameters import Coefficients, Density, NonNegative, Seed
from taskvec.methods._place import Place
from taskvec.methods._ranked import check_window, drop_block, drop_ranked, ranked_method
from taskvec.ops.signs import fuse
from taskvec.ops.vote_kernels import vote


def _check(
    *, density: Any, epsilon: float, dialect: TwoDialects, coefficients: Any, normalize: bool, rescale: bool, **_: Any
) -> None:
    check_window("della", density, epsilon)
    given = {"coefficients": (coefficients, 1.0), "normalize": (normalize, True), "rescale": (rescale, True)}
    only_in(("mergekit",), method="della", dialect=dialect, **given)


def _kernel(block: Any, *, dialect: TwoDialects, coefficients: Any, normalize: bool, **options: Any) -> Any:
    rows = drop_block(block, dialect=dialect, **options)
    out = np.empty(block.shape[1])
    vote(rows, np.array(coefficients), vote_rule(dialect, normalize=normalize).codes, out)
    return out


@ranked_method(
    source="arXiv:2406.11617, section 3",
    kernel=_kernel,
    check=_check,
)
def della(
    deltas: Float[Tensor, task * shape],
    *,
    density: Density = 0.7,
    epsilon: NonNegative = 0.07,
    seed: Seed = 0,
    dialect: TwoDialects = "paper",
    coefficients: Coefficients = 1.0,
    normalize: bool = True,
    rescale: bool = True,
    state: Any,
    at: Place,
) -> Float[Tensor, "*shape"]:
    """Keep large entries with a higher probability than small ones, divide by it, elect one sign, average who agree.

    In each row of m entries, with ranks 0, …, m - 1 by ascending |x| (equal ones by position):
    p = density - ε + 2 ε rank / (m - 1) and X = [u < p] x / p; the result is the mean of the X_t whose sign is that of
    Σ X_t. A vector is one row; of a matrix, and of anything larger, each slice of the first axis is one.

    The mean over seeds of X is x. One task: what stays of it. Equal tasks draw different entries. Opposed tasks cancel
    only where both stay (a zero vote elects nobody). Zero input: 0. Rows of one entry, and 0-d tensors, stay with the
    probability density; density 1 keeps everything, whatever ε; ε = 0 is `dare_ties` without its trim. Empty stays
    empty.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: the mean probability of keeping an entry, in (0, 1]; one number, or one a task.
        epsilon: half the width of the window of probabilities; density ± epsilon must lie in (0, 1].
        seed: which entries are kept.
        dialect: "mergekit" ranks along the second axis, rescales each tensor to the L1 norm that it had instead of
            dividing by p, votes on c_t X_t and divides by the sum of the agreeing c_t; a zero vote elects +.
        coefficients: c_t, one number or one a task (mergekit).
        normalize: whether to divide (mergekit).
        rescale: whether to rescale at all (mergekit).
        state: how much of each task's L1 norm is left in this tensor (mergekit).
        at: where the block lies.

    Differs from the paper: a vote of exactly 0 elects nobody; rows of one entry are allowed.
    """
    options: Any = {"density": density, "epsilon": epsilon, "rescale": rescale, "state": state}
    left = drop_ranked(deltas, at=at, seed=seed, dialect=dialect, **options)
    return fuse(left, coefficients, vote_rule(dialect, normalize=normalize))
