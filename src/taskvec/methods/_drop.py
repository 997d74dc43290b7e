"""Random dropping of entries, as DARE does it: kept where u < density, with u from (seed, task, tensor, position)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from taskvec.methods._dialects import Dialect
from taskvec.methods._method import Fold
from taskvec.methods._parameters import shares
from taskvec.methods._place import Place
from taskvec.ops import random, random_kernels, vote_kernels
from taskvec.ops.signs import column

if TYPE_CHECKING:
    from torch import Tensor

_NEGLIGIBLE = 1e-7  # mergekit leaves tensors alone whose L1 norm is below this, before or after dropping


class Draw(NamedTuple):
    """Which random numbers belong to a block, and below which of them an entry stays."""

    keys: Any
    start: Any
    thresholds: Any


def draw(at: Place, seed: int, density: Any) -> Draw:
    """What the compiled loops need to drop the entries of a block."""
    return Draw(random.stream_keys(seed, at.tasks, at.tensor), np.uint64(at.start), random.thresholds(density))


def numbers(stacked: Tensor, at: Place, seed: int) -> Tensor:
    """The random number of each entry, float64, in the shape of the stack."""
    import torch

    keys = random.stream_keys(seed, at.tasks, at.tensor)
    return torch.as_tensor(random.uniforms(keys, at.start, stacked[0].numel())).reshape(stacked.shape)


def drop(stacked: Tensor, *, at: Place, seed: int, density: Any, divisors: Any) -> Tensor:
    """The entries that stay, divided by their task's divisor; float64."""
    import torch

    stays = numbers(stacked, at, seed) < column(density, stacked)
    return torch.where(stays, stacked.double() / column(divisors, stacked), 0.0)


def masked(block: Any, *, at: Place, seed: int, density: Any, **_: Any) -> Any:
    """The entries of a block that stay, as they are; float32."""
    out = np.empty_like(block)
    random_kernels.mask_rows(block, *draw(at, seed, density), out)
    return out


def divisors_of(dialect: Dialect, density: Any, rescale: bool, state: Any) -> Any:
    """What entries that stay are divided by: the density; in mergekit's dialect the L1 norm that is left, or 1."""
    if dialect != "mergekit":
        return np.array(density, np.float64)
    return np.asarray(state) if rescale else np.ones(len(density))


def left_over(kept: Any, **options: Any) -> Fold:
    """A fold whose state is, for each task, how much of a tensor's L1 norm is left by `kept(block, …)`."""

    def norms(block: Any, **given: Any) -> Any:
        return np.stack([random_kernels.l1_norms(block), random_kernels.l1_norms(kept(block, **given))])

    def ratios(total: Any, *_: Any, **__: Any) -> Any:
        before, after = total
        known = (before >= _NEGLIGIBLE) & (after >= _NEGLIGIBLE)
        return np.where(known, after / np.where(known, before, 1.0), 1.0)

    return Fold(norms, ratios, **options)


def drop_and_add(stacked: Tensor, *, at: Place, seed: int, density: Any, divisors: Any, coefficients: Any) -> Tensor:
    """The weighted sum of what stays."""
    return (column(coefficients, stacked) * drop(stacked, at=at, seed=seed, density=density, divisors=divisors)).sum(0)


def add_kernel(
    block: Any,
    *,
    at: Place,
    seed: int,
    density: Any,
    coefficients: Any,
    state: Any,
    dialect: Dialect = "paper",
    rescale: bool = True,
    normalize: bool = False,
) -> Any:
    """`drop_and_add`, compiled."""
    out = np.empty(block.shape[1])
    divisors = divisors_of(dialect, density, rescale, state)
    vote_kernels.dropped_sum(block, *draw(at, seed, density), divisors, shares(coefficients, normalize), out)
    return out


def whole_coefficients(_: int, *, density: Any, coefficients: Any, normalize: bool = False, **__: Any) -> Any:
    """The coefficients of the merge where nothing is dropped, so that it is a plain sum; else None."""
    return shares(coefficients, normalize) if all(d == 1.0 for d in density) else None
