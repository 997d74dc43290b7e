"""DARE, then TIES: random dropping, trimming, sign election (Yu et al., ICML 2024, arXiv:2311.03099)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from taskvec.methods._dialects import Dialect, Majority, only_in, vote_rule
from taskvec.methods._drop import divisors_of, draw, drop, left_over, masked
from taskvec.methods._method import Fold, merge_method
from taskvec.methods._parameters import Coefficients, Density, Seed
from taskvec.methods._place import Place
from taskvec.methods._trim import magnitude_folds
from taskvec.ops.signs import bars, fuse, keep
from taskvec.ops.thresholds import kept
from taskvec.ops.vote_kernels import dropped_vote

if TYPE_CHECKING:
    from torch import Tensor


def _check(
    *, dialect: Dialect, coefficients: Any, normalize: bool, rescale: bool, majority: str, trim_density: Any, **_: Any
) -> None:
    only_in(("mergekit", "peft"), method="dare_ties", dialect=dialect, coefficients=(coefficients, 1.0))
    only_in(("mergekit",), method="dare_ties", dialect=dialect, normalize=(normalize, False), rescale=(rescale, True))
    only_in(("peft",), method="dare_ties", dialect=dialect, majority=(majority, "total"))
    only_in(("paper",), method="dare_ties", dialect=dialect, trim_density=(trim_density, 1.0))


def _ranks(entries: int, tasks: int, *, trim_density: Any, **_: Any) -> Any:
    return np.array([kept(d, entries) for d in trim_density], np.int64)


def _folds(*, dialect: Dialect, rescale: bool, **_: Any) -> tuple[Fold, ...]:
    if dialect == "paper":
        return magnitude_folds(scope="model", ranks=_ranks, of=masked)
    return (left_over(masked),) if dialect == "mergekit" and rescale else ()


def _bars(dialect: Dialect, density: Any, state: Any) -> Any:
    return bars(state if dialect == "paper" else np.zeros(len(density)))


def _kernel(
    block: Any,
    *,
    at: Place,
    seed: int,
    density: Any,
    coefficients: Any,
    dialect: Dialect,
    rescale: bool,
    state: Any,
    normalize: bool,
    majority: Majority,
    **_: Any,
) -> Any:
    out = np.empty(block.shape[1])
    rule = vote_rule(dialect, normalize=normalize, majority=majority)
    divisors = divisors_of(dialect, density, rescale, state)
    least, weights = _bars(dialect, density, state), np.array(coefficients)
    dropped_vote(block, least, *draw(at, seed, density), divisors, weights, rule.codes, out)
    return out


@merge_method(
    source="arXiv:2311.03099, section 3 with arXiv:2306.01708",
    folds=_folds,
    kernel=_kernel,
    check=_check,
    laws={"permutation", "homogeneous", "zero"},
    dialects={"mergekit": {"density": 1.0, "trim_density": 1.0}, "peft": {"trim_density": 1.0}},
)
def dare_ties(
    deltas: Float[Tensor, task * shape],
    *,
    density: Density = 0.8,
    trim_density: Density = 0.2,
    seed: Seed = 0,
    dialect: Dialect = "paper",
    coefficients: Coefficients = 1.0,
    normalize: bool = False,
    rescale: bool = True,
    majority: Majority = "total",
    state: Any,
    at: Place,
) -> Float[Tensor, "*shape"]:
    """Drop entries at random and rescale the rest as DARE does, then trim, elect and average them as TIES does.

    With X_t = [u < d] τ_t / d and K_t = X_t where |X_t| is at least its k-th largest magnitude over the whole model,
    k = max(1, ceil(trim_density · D)): the result is the mean of the K_t whose sign is that of Σ K_t. Where fewer than
    k entries are left after dropping, the trim keeps them all.

    One task: what stays of it. Equal tasks draw different entries. Opposed tasks cancel only where both stay (a zero
    vote elects nobody). Zero input: 0. A 0-d tensor is one entry of the model; an empty one stays empty.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: probability of keeping an entry (1 - the paper's drop rate), in (0, 1]; one number, or one a task.
        trim_density: fraction of the model's entries that the trim keeps, in (0, 1] (paper).
        seed: which entries are kept.
        dialect: "mergekit" does not trim, rescales each tensor to the L1 norm that it had, votes on c_t X_t and adds
            up those who agree; "peft" does not trim, votes on X_t and divides the sum of the agreeing c_t X_t by their
            number. In both a zero vote elects +.
        coefficients: c_t, one number or one a task (mergekit, peft).
        normalize: whether to divide by the sum of the agreeing coefficients (mergekit).
        rescale: whether to rescale at all (mergekit).
        majority: whether values or signs are added up to elect (peft).
        state: the float32 pattern of each task's threshold, before rescaling; in mergekit's dialect how much of each
            task's L1 norm is left in this tensor.
        at: where the block lies.

    Differs from the paper: exactly k entries and all ties are kept by the trim; a vote of exactly 0 elects nobody.
    """
    trimmed = keep(deltas, _bars(dialect, density, state).view(np.int32))
    divisors = divisors_of(dialect, density, rescale, state)
    left = drop(trimmed, at=at, seed=seed, density=density, divisors=divisors)
    return fuse(left, coefficients, vote_rule(dialect, normalize=normalize, majority=majority))
