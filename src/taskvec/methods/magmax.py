"""MagMax: at each entry the delta of largest magnitude (Marczak et al., ECCV 2024, arXiv:2407.06322)."""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import merge_method
from taskvec.ops.entry_kernels import largest


def _kernel(block: Any, **_: Any) -> Any:
    out = np.empty(block.shape[1])
    largest(block, out)
    return out


@merge_method(
    source="arXiv:2407.06322, maximum magnitude selection",
    kernel=_kernel,
    laws={"permutation", "homogeneous", "zero", "idempotent"},
)
def magmax(deltas: Float[Tensor, "task *shape"]) -> Float[Tensor, "*shape"]:
    """The delta of largest magnitude at each entry; deltas of equal magnitude are averaged.

    With W the tasks whose |δ_t| is the largest: the mean of the δ_t in W, in float64.

    Zero inputs give 0, equal ones themselves, opposed ones 0; 0-d and empty tensors keep their shape.

    Differs from the paper: the published code gives a tie to the later task; here nobody's order decides.
    """
    magnitudes = deltas.abs()
    winners = magnitudes == magnitudes.amax(0)
    return (deltas.double() * winners).sum(0) / winners.sum(0)
