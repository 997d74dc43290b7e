"""TIES: trim, elect sign, disjoint merge (Yadav et al., NeurIPS 2023, arXiv:2306.01708)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from taskvec.methods._dialects import Dialect, Majority, only_in, vote_rule
from taskvec.methods._method import Fold, merge_method
from taskvec.methods._parameters import Coefficients, Density
from taskvec.methods._trim import magnitude_folds
from taskvec.ops.signs import Rule, agree, bars, elect, fuse, keep
from taskvec.ops.thresholds import kept
from taskvec.ops.vote_kernels import trimmed_vote

if TYPE_CHECKING:
    from torch import Tensor

Aggregate = Literal["mean", "sum", "max"]


def _check(*, dialect: Dialect, aggregate: str, coefficients: Any, normalize: bool, majority: str, **_: Any) -> None:
    only_in(("paper",), method="ties", dialect=dialect, aggregate=(aggregate, "mean"))
    only_in(("mergekit", "peft"), method="ties", dialect=dialect, coefficients=(coefficients, 1.0))
    only_in(("mergekit",), method="ties", dialect=dialect, normalize=(normalize, True))
    only_in(("peft",), method="ties", dialect=dialect, majority=(majority, "total"))


def _ranks(entries: int, tasks: int, *, density: Any, dialect: Dialect, **_: Any) -> Any:
    if dialect == "paper":
        return np.array([kept(d, entries) for d in density], np.int64)
    least = 1 if dialect == "mergekit" else 0
    return np.array([max(least, math.floor(d * entries)) for d in density], np.int64)


def _folds(*, dialect: Dialect, **_: Any) -> tuple[Fold, ...]:
    return magnitude_folds(scope="model" if dialect == "paper" else "tensor", ranks=_ranks)


def _rule(dialect: Dialect, aggregate: str, normalize: bool, majority: Majority) -> Rule:
    return Rule(divisor="none") if aggregate == "sum" else vote_rule(dialect, normalize=normalize, majority=majority)


def _kernel(
    block: Any,
    *,
    state: Any,
    aggregate: str,
    dialect: Dialect,
    coefficients: Any,
    normalize: bool,
    majority: Any,
    **_: Any,
) -> Any:
    if aggregate == "max":
        return None
    out = np.empty(block.shape[1])
    rule = _rule(dialect, aggregate, normalize, majority)
    lows = bars(state)
    trimmed_vote(block, lows, np.full_like(lows, np.inf), np.array(coefficients), rule.codes, out)
    return out


@merge_method(
    source="arXiv:2306.01708, Algorithm 1",
    folds=_folds,
    kernel=_kernel,
    check=_check,
    laws={"permutation", "homogeneous", "zero"},
    dialects={"mergekit": {"density": 1.0}},
)
def ties(
    deltas: Float[Tensor, task * shape],
    *,
    density: Density = 0.2,
    aggregate: Aggregate = "mean",
    dialect: Dialect = "paper",
    coefficients: Coefficients = 1.0,
    normalize: bool = True,
    majority: Majority = "total",
    state: Any,
) -> Float[Tensor, "*shape"]:
    """Keep each task's largest entries over the whole model, elect one sign an entry, average those that agree.

    With K_t = τ_t where |τ_t| is at least its k-th largest magnitude, k = max(1, ceil(density · D)): the result is the
    mean of the K_t whose sign is that of Σ K_t.

    One task, or equal ones: the trimmed input. Opposed tasks: 0 (a zero vote elects nobody). Zero input: 0. Equal
    magnitudes are all kept. A 0-d tensor is one entry of the model; an empty one stays empty.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: fraction of the model's entries that a task keeps, in (0, 1]; one number, or one a task.
        aggregate: what to make of the agreeing entries: their mean (paper), their sum, or the largest.
        dialect: "mergekit" trims each tensor to floor(density · n) entries (at least one), votes on c_t K_t and
            divides by the sum of the agreeing c_t (density 1 by default); "peft" trims each tensor to
            floor(density · n) entries, votes on K_t and divides the sum of the agreeing c_t K_t by their number. In
            both a zero vote elects +.
        coefficients: c_t, one number or one a task (mergekit, peft).
        normalize: whether to divide (mergekit).
        majority: whether values or signs are added up to elect (peft).
        state: the float32 pattern of each task's threshold.

    Differs from the paper: exactly ceil(density · D) entries and all ties are kept (the published code keeps one
    more when density · D is whole); a vote of exactly 0 elects nobody.
    """
    trimmed = keep(deltas, state)
    if aggregate == "max":
        return agree(trimmed, elect(trimmed), aggregate="max")
    return fuse(trimmed, coefficients, _rule(dialect, aggregate, normalize, majority))
