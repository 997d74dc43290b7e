"""Magnitude pruning: only the largest entries of a task vector stay."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import Fold
from taskvec.methods._parameters import Density
from taskvec.methods._trim import magnitude_folds
from taskvec.ops.signs import keep
from taskvec.ops.thresholds import kept
from taskvec.transforms._transform import vector_transform

Scope = Literal["model", "tensor"]


def _ranks(entries: int, _: int, *, density: Any, **__: Any) -> Any:
    return np.array([kept(d, entries) for d in density], np.int64)


def _folds(*, scope: Scope, **_: Any) -> tuple[Fold, ...]:
    return magnitude_folds(scope=scope, ranks=_ranks)


@vector_transform(
    source="arXiv:2306.01708, the trim of Algorithm 1",
    folds=_folds,
    alone=True,
    laws={"permutation", "homogeneous", "zero"},
)
def magnitude_prune(
    deltas: Float[Tensor, task * shape], *, density: Density = 0.2, scope: Scope = "model", state: Any
) -> Float[Tensor, task * shape]:
    """The entries of largest magnitude as they are, and 0 elsewhere.

    An entry stays where |δ| is at least the k-th largest, k = max(1, ceil(density · n)) of the n entries of the model,
    or of each tensor. Equal magnitudes all stay.

    Zero stays zero; a 0-d tensor is one entry; an empty one stays empty.

    Args:
        deltas: the delta of one task, on axis 0.
        density: the fraction of entries that stay, in (0, 1]; one number, or one a task.
        scope: whether entries compete within the model or within each tensor.
        state: the float32 pattern of the threshold.

    Differs from the paper: nothing.
    """
    return keep(deltas, torch.as_tensor(state))
