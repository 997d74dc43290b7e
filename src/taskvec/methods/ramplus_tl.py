"""RAM+: RAM, with the entries that only one task moved made larger (arXiv:2601.13572)."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import Fold, merge_method
from taskvec.methods._parameters import NonNegative
from taskvec.ops.entry_kernels import active_counts, active_mean


def _count(block: Any, *, epsilon: float, **_: Any) -> Any:
    counts = np.zeros((2, block.shape[0]), np.int64)
    active_counts(block, epsilon, counts)
    return counts


def _factors(counts: Any, _: Any, entries: int, *, r: float, alpha: float, **__: Any) -> Any:
    """The factor of each task's unique entries, from the numbers of its unique and its shared ones."""
    unique, shared = counts
    return np.where(unique > 0, 1.0 + r * np.minimum(shared / np.maximum(unique, 1), alpha), 1.0)


def _folds(*, dialect: str, **_: Any) -> tuple[Fold, ...]:
    return (Fold(_count, _factors, "model" if dialect == "paper" else "tensor", counts=True),)


def _kernel(block: Any, *, epsilon: float, state: Any, **_: Any) -> Any:
    out = np.empty(block.shape[1])
    active_mean(block, epsilon, state, out)
    return out


@merge_method(
    source="arXiv:2601.13572, RAM+",
    folds=_folds,
    kernel=_kernel,
    laws={"permutation", "zero"},
    dialects={"mergekit": {"r": 0.1, "alpha": 0.2}},
)
def ramplus_tl(
    deltas: Float[Tensor, "task *shape"],
    *,
    epsilon: NonNegative = 1e-5,
    r: NonNegative = 0.2,
    alpha: NonNegative = 1.0,
    dialect: Literal["paper", "mergekit"] = "paper",
    state: Any,
) -> Float[Tensor, "*shape"]:
    """RAM with the entries that one task alone moved multiplied by λ_t = 1 + r · min(shared_t / unique_t, alpha).

    shared_t and unique_t count the active entries (|δ_t| > epsilon) of task t that another task moved too, or none
    did: over the whole model. A task without unique entries uses no λ.

    Zero inputs give 0, equal ones the active entries of the input, opposed ones 0; disjoint supports give the sum;
    0-d and empty tensors keep their shape.

    Args:
        deltas: one delta a task, stacked on axis 0.
        epsilon: what counts as rounding of the stored weights; absolute.
        r: how much larger unique entries may become (mergekit: 0.1 by default).
        alpha: the largest ratio that counts (mergekit: 0.2 by default).
        dialect: mergekit counts per tensor.
        state: λ of each task.

    Differs from the paper: where a task has no unique entries the published code divides by 0.
    """
    active = deltas.double().abs() > epsilon
    factors = torch.as_tensor(state, dtype=torch.float64).reshape(-1, *[1] * (deltas.ndim - 1))
    number = active.sum(0)
    values = torch.where(active, deltas.double() * torch.where(number == 1, factors, 1.0), 0.0)
    return values.sum(0) / number.clamp(min=1)
