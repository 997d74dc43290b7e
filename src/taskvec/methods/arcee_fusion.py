"""Arcee Fusion: move the base only where another model differs most, by size and by distribution."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import Fold, merge_method
from taskvec.methods._order import Ordered, order_folds
from taskvec.methods._place import Place
from taskvec.ops.gram import unit_of, units
from taskvec.ops.importance import softmax_divergence

_QUANTILES = (0.25, 0.5, 0.75)


def _divergence(block: Any, *, base: Any, at: Place, **_: Any) -> Any:
    inner, _count = units("row", at.shape)
    return [softmax_divergence(block[0].reshape(-1, inner), base.reshape(-1, inner))]


def _joined(total: Any, *_: Any, **__: Any) -> Any:
    return np.concatenate(total)


def _importance(block: Any, *, base: Any, at: Place, state: Any, **_: Any) -> Any:
    rows = unit_of("row", at.shape, at.start, at.start + block.shape[1])
    return (np.abs(block[:1].astype(np.float64) - base) * state[rows]).astype(np.float32)


def _ranks(counted: Any, entries: int, **_: Any) -> Any:
    return np.array([[entries - math.floor(q * (entries - 1)) for q in _QUANTILES]], np.int64)


def _threshold(state: Ordered) -> float:
    first, median, third = state.values[0].tolist()
    return float(median + 1.5 * (third - first))


@merge_method(
    source="mergekit, arcee_fusion",
    space="point",
    base="required",
    folds=(Fold(_divergence, _joined, acts_on="row"), *order_folds(_importance, _ranks, scope="tensor")),
    least=1,
    most=1,
    laws={"zero", "idempotent"},
)
def arcee_fusion(
    points: Float[Tensor, "task *shape"], *, base: Float[Tensor, "*shape"], at: Place, state: Any
) -> Float[Tensor, "*shape"]:
    """The other model where its importance is at least median + 1.5 (Q3 − Q1) of its tensor, the base elsewhere.

    importance = |θ − base| · KL(softmax θ ‖ softmax base), the divergence over each row (last axis; a vector is one
    row), 1e-8 added to every probability; compared as float32 numbers.

    Zero gives 0 and a model equal to the base itself: equal importances keep everything, so that tensors whose last
    axis has one entry become the other model's; 0-d and empty tensors keep their shape.

    Args:
        points: the other model, stacked on axis 0.
        base: the model to start from.
        at: where the entries lie.
        state: the divergence of each row, and the quartiles of the importance.

    Differs from the paper: nothing; there is no paper. mergekit takes quartiles from a random sample of tensors above
    a million entries, and its float32 divergence of close rows is mostly rounding; here they are exact, in float64.
    """
    rows = unit_of("row", at.shape, at.start, at.start + base.numel())
    spread = torch.as_tensor(state.before[rows]).reshape(base.shape)
    importance = ((points[0].double() - base.double()).abs() * spread).float()
    return torch.where(importance >= _threshold(state), points[0], base)
