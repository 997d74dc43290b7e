"""PCB-Merging: parameter competition balancing (Du et al., NeurIPS 2024, arXiv:2410.02396)."""

from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.errors import ParameterError
from taskvec.methods._method import merge_method
from taskvec.methods._order import Ordered, order_folds
from taskvec.methods._parameters import Coefficients, Density, Range
from taskvec.ops import competition, competition_kernels
from taskvec.ops.signs import ROUNDING


def _magnitudes(block: Any, **_: Any) -> Any:
    return np.abs(block)


def _from_above(entries: int, index: float) -> int:
    """The rank from above of the entry at an index of the ascending order."""
    return entries - min(max(int(index), 0), entries - 1)


def _ends(counted: Any, entries: int, *, clip: float, **_: Any) -> Any:
    low, high = _from_above(entries, entries * clip), _from_above(entries, entries * (1.0 - clip) - 1.0)
    return np.array([[low, high]] * counted.size, np.int64)


def _scores(block: Any, *, state: Ordered, **_: Any) -> Any:
    out = np.empty(block.shape, np.float32)
    competition_kernels.scores(block, state.values[:, 0], state.values[:, 1], ROUNDING, out)
    return out


def _tops(counted: Any, entries: int, *, density: Any, **_: Any) -> Any:
    return np.array([[_from_above(entries, entries * (1.0 - d)), 1] for d in density], np.int64)


def _check(*, clip: float, **_: Any) -> None:
    if clip >= 0.5:
        raise ParameterError(f"pcb: clip={clip:g} is outside [0, 0.5).", "give the share to clip at each end.")


def _kernel(block: Any, *, coefficients: Any, state: Ordered, **_: Any) -> Any:
    out, ends = np.empty(block.shape[1]), state.before.values
    score = _scores(block, state=state.before)
    quantile, top = np.ascontiguousarray(state.values.T)
    low, high = np.ascontiguousarray(ends.T)
    competition_kernels.balanced_mean(block, score, low, high, quantile, top, np.asarray(coefficients), out)
    return out


@merge_method(
    source="arXiv:2410.02396, pcb_ES.py",
    folds=(*order_folds(_magnitudes, _ends, scope="model"), *order_folds(_scores, _tops, scope="model")),
    kernel=_kernel,
    check=_check,
    laws={"permutation", "homogeneous", "zero"},
)
def pcb(
    deltas: Float[Tensor, "task *shape"],
    *,
    density: Density = 0.05,
    clip: Annotated[float, Range(0.0, 0.5, closed=True)] = 0.01,
    coefficients: Coefficients = 1.0,
    state: Any,
) -> Float[Tensor, "*shape"]:
    """Σ w_t c_t sign(δ_t) b_t / Σ w_t, with weights w that entries win by their size and by other tasks' support.

    Over the whole model of D entries and s the ascending |τ_t|: b_t is |τ_t| clipped to s[D·clip] and
    s[D·(1−clip)−1], g_t is b_t from 0 to 1, y_t = sign(τ_t) g_t. An entry's score is
    exp(T g_t²) · Σ_s tanh(y_t y_s), compared as float32 numbers; w_t rises from 0 at the score that the share
    `density` of entries exceeds, to 1 at the largest.

    Zero inputs give 0, equal ones the clipped input at the top scores, opposed ones 0 (support that cancels is 0).
    Where all magnitudes are equal g says whether an entry is not 0; where the two scores are equal w says whether
    an entry has it, and it is positive. 0-d and empty tensors keep their shape.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: fraction of the model's entries that win a weight, in (0, 1]; one number, or one a task.
        clip: fraction of the model's entries that is clipped at each end, in [0, 0.5).
        coefficients: c_t; one number, or one a task. They do not divide.
        state: the clipping bounds, and the two scores, of each task.

    Differs from the paper: its formula has two softmaxes, none of its four programs has one; this is `pcb_ES.py`
    (the others saturate: multiplying their inputs by 1000 changes the result by half).
    """
    low, high = (torch.as_tensor(column) for column in state.before.values.T)
    quantile, top = (torch.as_tensor(column) for column in state.values.T)
    w = competition.weights(competition.scores(deltas, low, high), quantile, top)
    c = torch.as_tensor(coefficients, dtype=torch.float64).reshape(-1, *[1] * (deltas.ndim - 1))
    values = w * c * deltas.double().sign() * competition.clipped(deltas, low, high)
    return values.sum(0) / w.sum(0).clamp(min=1e-12)
