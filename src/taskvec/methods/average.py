"""Average: the mean of the task vectors; with a base, the uniform soup of the tuned models (arXiv:2203.05482)."""

import numpy as np
from jaxtyping import Float64

from taskvec.methods._method import linear_method


@linear_method(
    source="arXiv:2203.05482, uniform soup",
    laws={"permutation", "homogeneous", "zero", "idempotent", "additive"},
)
def average(count: int) -> Float64[np.ndarray, "task"]:
    """The mean of the deltas: (1/T) Σ δ_t, summed in float64 in task order.

    Zero, equal and opposed inputs give 0, the input and 0; 0-d and empty tensors keep their shape.

    Differs from the paper: nothing.
    """
    return np.full(count, 1.0 / count)
