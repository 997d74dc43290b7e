"""Passthrough: one model as it is, or times a number."""

import numpy as np
from jaxtyping import Float64

from taskvec.methods._method import linear_method


@linear_method(
    source="mergekit, passthrough",
    space="point",
    base="none",
    least=1,
    most=1,
    laws={"permutation", "homogeneous", "zero", "idempotent", "additive"},
)
def passthrough(count: int, *, scale: float = 1.0) -> Float64[np.ndarray, "task"]:
    """The one input times `scale`; at scale 1 every bit of it.

    Zero gives 0; 0-d and empty tensors keep their shape. Two inputs are refused.

    Args:
        count: 1.
        scale: multiplies every weight (in float64, rounded once).

    Differs from the paper: nothing; there is no paper.
    """
    return np.full(count, scale)
