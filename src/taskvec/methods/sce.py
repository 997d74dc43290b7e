"""SCE: select entries where tasks differ, weigh tasks by their squares, erase minority signs (arXiv:2408.07990)."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import Fold, merge_method
from taskvec.methods._order import order_folds
from taskvec.methods._parameters import Fraction
from taskvec.ops import spread_kernels
from taskvec.ops.signs import ROUNDING, elect
from taskvec.ops.thresholds import kept

_EVERYTHING = -1.0  # a bar that every deviation reaches, and NaN too


class _State(NamedTuple):
    bar: float
    weights: Any


def _deviations(block: Any, **_: Any) -> Any:
    out = np.empty((1, block.shape[1]), np.float32)
    spread_kernels.deviations(block, ROUNDING, out[0])
    return out


def _ranks(counted: Any, entries: int, *, density: float, dialect: str, **_: Any) -> Any:
    n = int(counted[0])
    return np.array([[kept(density, n) if dialect == "paper" else int(density * n)]])


def _bar(state: Any, dialect: str) -> float:
    """The least deviation that is selected."""
    found = float(state.values[0, 0]) if state is not None else _EVERYTHING
    return _EVERYTHING if found == np.inf and dialect == "paper" else found


def _squares(block: Any, *, state: Any, dialect: str, **_: Any) -> Any:
    bar, out = _bar(state, dialect), np.empty(block.shape[0])
    spread_kernels.squares(block, _spread(block, bar), bar, out)
    return out


def _spread(block: Any, bar: float) -> Any:
    return np.empty(0, np.float32) if bar == _EVERYTHING else _deviations(block)[0]


def _weights(squares: Any, state: Any, entries: int, *, dialect: str, **_: Any) -> _State:
    total = float(squares.sum())
    none = total / entries < 1e-6 if dialect == "mergekit" else total == 0.0
    weights = np.full(squares.size, 1.0 / squares.size) if none else squares / total
    return _State(_bar(state, dialect), weights)


def _folds(*, density: float, **_: Any) -> tuple[Fold, ...]:
    chosen = order_folds(_deviations, _ranks, scope="tensor") if density < 1.0 else ()
    return (*chosen, Fold(_squares, _weights))


def _kernel(block: Any, *, select: str, dialect: str, state: _State, **_: Any) -> Any:
    out, theirs = np.empty(block.shape[1]), dialect == "mergekit"
    bar = state.bar if select == "deltas" else _EVERYTHING
    rounding, floor = (0.0, 1e-6) if theirs else (ROUNDING, 0.0)
    spread_kernels.weighted_vote(block, _spread(block, bar), bar, state.weights, rounding, theirs, floor, out)
    return out


@merge_method(
    source="arXiv:2408.07990, select, calculate and erase",
    folds=_folds,
    kernel=_kernel,
    laws={"permutation", "homogeneous", "zero", "idempotent"},
)
def sce(
    deltas: Float[Tensor, "task *shape"],
    *,
    density: Fraction = 1.0,
    select: Literal["deltas", "weights"] = "deltas",
    dialect: Literal["paper", "mergekit"] = "paper",
    state: Any,
) -> Float[Tensor, "*shape"]:
    """Σ c_t d_t / Σ c_t over the tasks whose sign is elected, with c_t the share of task t in the sum of squares.

    S holds, of the entries of a tensor whose variance over tasks is not 0, the ceil(density · …) where it is largest
    (ties stay); d_t is δ_t on S and 0 elsewhere; c_t = Σ d_t² / Σ_s Σ d_s². Deviations are ranked as float32 numbers;
    a variance up to 2^-40 of the mean square is 0.

    Zero inputs give 0; equal ones (and a single one) themselves, since no variance means no selection; opposed ones
    0 (a zero vote elects nobody); 0-d and empty tensors keep their shape.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: fraction of the entries of a tensor with variance that is selected, in (0, 1].
        select: what the selection is for: the deltas, or only the weights c_t (the published code).
        dialect: mergekit selects floor(density · …) entries, gives equal weights where the mean squares sum to less
            than 1e-6, floors the divisor there, lets a zero vote elect +, and returns the base where nothing varies.
        state: the least deviation that is selected, and the weights.

    Differs from the paper: its formula reads as a sum of c_t d_t, its code divides by the c_t that agree, as here.
    """
    x, shape = deltas.double(), (-1, *[1] * (deltas.ndim - 1))
    weights, theirs = torch.as_tensor(state.weights, dtype=torch.float64).reshape(shape), dialect == "mergekit"
    centred = ((x - x.mean(0)) ** 2).sum(0)
    spread = torch.where(centred > ROUNDING * (x**2).sum(0), (centred / len(x)).sqrt().float(), torch.nan)
    if select == "deltas" and state.bar != _EVERYTHING:
        x = torch.where(spread >= state.bar, x, 0.0)
    elected = torch.where(x.sum(0) < 0, -1.0, 1.0) if theirs else elect(x)
    agrees = (x.sign() == elected) & (x != 0)
    above, below = (weights * x * agrees).sum(0), (weights * agrees).sum(0)
    if theirs:
        return above / below.clamp(min=1e-6)
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)
