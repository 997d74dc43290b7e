"""TIES: trim, elect sign, disjoint merge (Yadav et al., NeurIPS 2023, arXiv:2306.01708)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import Fold, merge_method
from taskvec.methods._parameters import Density
from taskvec.methods._trim import magnitude_folds
from taskvec.ops.signs import ROUNDING, agree, elect, keep
from taskvec.ops.thresholds import kept
from taskvec.ops.vote_kernels import trim_elect_aggregate


def _ranks(entries: int, tasks: int, *, density: Any, **_: Any) -> Any:
    return np.array([kept(d, entries) for d in density], np.int64)


def _folds(**_: Any) -> tuple[Fold, ...]:
    return magnitude_folds(scope="model", ranks=_ranks)


def _kernel(block: Any, *, state: Any, aggregate: str, **options: Any) -> Any:
    if aggregate == "max":
        return None
    out = np.empty(block.shape[1])
    trim_elect_aggregate(block, state, ROUNDING, aggregate == "mean", out)
    return out


@merge_method(
    source="arXiv:2306.01708, Algorithm 1", folds=_folds, kernel=_kernel, laws={"permutation", "homogeneous", "zero"}
)
def ties(
    deltas: Float[Tensor, task * shape],
    *,
    density: Density = 0.2,
    aggregate: Literal["mean", "sum", "max"] = "mean",
    state: Any,
) -> Float[Tensor, "*shape"]:
    """Keep each task's largest entries over the whole model, elect one sign an entry, average those that agree.

    With K_t = τ_t where |τ_t| is at least its k-th largest magnitude, k = max(1, ceil(density · D)): the result is the
    mean of the K_t whose sign is that of Σ K_t.

    Equal inputs give the trimmed input, opposed ones 0 (a zero vote elects nobody), all-equal magnitudes are all kept.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: fraction of the model's entries that a task keeps, in (0, 1]; one number, or one a task.
        aggregate: what to make of the agreeing entries: their mean (paper), their sum, or the largest.
        state: the float32 pattern of each task's threshold.

    Differs from the paper: exactly ceil(density · D) entries and all ties are kept (the published code keeps one
    more when density · D is whole); a vote of exactly 0 elects nobody.
    """
    trimmed = keep(deltas, torch.as_tensor(state))
    return agree(trimmed, elect(trimmed), aggregate=aggregate)
