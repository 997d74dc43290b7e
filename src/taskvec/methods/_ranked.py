"""MAGPRUNE, DELLA's random dropping: the larger an entry within its row, the likelier it stays."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskvec.errors import ParameterError
from taskvec.methods._dialects import Dialect
from taskvec.methods._drop import left_over, numbers
from taskvec.methods._method import Fold, merge_method
from taskvec.methods._place import Place
from taskvec.ops import random, rank_kernels
from taskvec.ops.signs import column


def check_window(method: str, density: tuple[float, ...], epsilon: float) -> None:
    """Refuse probabilities that are none; density 1 keeps everything, whatever epsilon.

    Raises:
        ParameterError: density ± epsilon leaves (0, 1].
    """
    for d in density:
        if d < 1.0 and not (d - epsilon > 0.0 and d + epsilon <= 1.0):
            raise ParameterError(
                f"{method}: density={d!r} ± epsilon={epsilon!r} is not within (0, 1].",
                f"epsilon below {min(d, 1.0 - d):g}, or another density.",
            )


def probabilities(stacked: Tensor, *, density: Any, epsilon: float, dialect: Dialect = "paper") -> Tensor:
    """With which probability each entry stays: density - ε + 2 ε rank / (m - 1), ranks ascending within its row.

    A row is a vector, or a slice of the first axis; in mergekit's dialect it runs along the second axis. Equal
    magnitudes are ranked by position.
    """
    slices = stacked.shape[1] if stacked.ndim > 2 else 1
    width = math.prod(stacked.shape[2:]) if stacked.ndim > 2 else math.prod(stacked.shape[1:])
    rows = stacked.reshape(stacked.shape[0], slices, width)
    if dialect == "mergekit" and stacked.ndim > 3:
        rows = stacked.flatten(3)
    axis = 2
    order = rows.abs().argsort(dim=axis, stable=True)
    m = rows.shape[axis]
    places = torch.arange(m).reshape(-1, *[1] * (rows.ndim - 3)).expand(rows.shape)
    ranks = torch.empty_like(order).scatter_(axis, order, places)
    middle = column(density, rows)
    spread = epsilon * (middle < 1.0).double()
    likely = middle - spread + 2.0 * spread * ranks / (m - 1) if m > 1 else middle.expand(rows.shape)
    return likely.clamp(max=1.0).reshape(stacked.shape)


def drop_ranked(
    stacked: Tensor,
    *,
    at: Place,
    seed: int,
    density: Any,
    epsilon: float,
    dialect: Dialect,
    rescale: bool = True,
    state: Any = None,
) -> Tensor:
    """The entries that stay, divided by their probability, or in mergekit's dialect by what `state` says; float64."""
    divisors = _divisors(dialect, len(stacked), rescale, state)
    likely = probabilities(stacked, density=density, epsilon=epsilon, dialect=dialect)
    stays = numbers(stacked, at, seed) < likely
    return torch.where(stays, stacked.double() / (likely if divisors is None else column(divisors, stacked)), 0.0)


def drop_block(
    block: Any,
    *,
    at: Place,
    seed: int,
    density: Any,
    epsilon: float,
    dialect: Dialect,
    rescale: bool = True,
    state: Any = None,
) -> Any:
    """`drop_ranked` of a block (task, n) of whole rows, compiled; float64."""
    shape = at.shape
    if dialect == "mergekit" and len(shape) > 2:
        stacked = torch.from_numpy(block).reshape(block.shape[0], -1, *shape[1:])
        options: Any = {"seed": seed, "density": density, "epsilon": epsilon, "rescale": rescale, "state": state}
        return drop_ranked(stacked, at=at, dialect=dialect, **options).reshape(block.shape).numpy()
    row = math.prod(shape[1:]) if len(shape) > 1 else block.shape[1]
    out = np.empty(block.shape)
    keys, start = random.stream_keys(seed, at.tasks, at.tensor), np.uint64(at.start)
    divisors = _divisors(dialect, len(block), rescale, state)
    fixed = np.zeros(len(block)) if divisors is None else np.asarray(divisors, np.float64)
    rank_kernels.drop_ranked(block, keys, start, row, np.array(density), epsilon, fixed, out)
    return out


def _divisors(dialect: Dialect, count: int, rescale: bool, state: Any) -> Any:
    """What entries that stay are divided by, where it is not their probability."""
    if dialect != "mergekit":
        return None
    return np.asarray(state) if rescale else np.ones(count)


def _folds(*, dialect: Dialect, rescale: bool, **_: Any) -> tuple[Fold, ...]:
    """What mergekit's dialect needs to rescale: how much of each tensor's L1 norm is left."""

    def left(block: Any, *, at: Place, seed: int, density: Any, epsilon: float, **_: Any) -> Any:
        options: Any = {"density": density, "epsilon": epsilon, "rescale": False}
        return drop_block(block, at=at, seed=seed, dialect="mergekit", **options).astype(np.float32)

    return (left_over(left, acts_on="row"),) if dialect == "mergekit" and rescale else ()


# What all methods that drop like this declare.
ranked_method = functools.partial(
    merge_method,
    acts_on="row",
    folds=_folds,
    laws={"permutation", "homogeneous", "zero"},
    dialects={"mergekit": {"density": 1.0, "epsilon": 0.15}},
)
