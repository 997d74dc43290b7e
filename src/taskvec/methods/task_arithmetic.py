"""Task arithmetic: the sum of the task vectors (Ilharco et al., ICLR 2023, arXiv:2212.04089)."""

from typing import Any

import numpy as np
from jaxtyping import Float64

from taskvec.methods._dialects import check_sum
from taskvec.methods._method import linear_method
from taskvec.methods._parameters import Coefficients, shares


def _check(*, coefficients: Any, normalize: bool) -> None:
    check_sum("task_arithmetic", coefficients, normalize)


@linear_method(
    source="arXiv:2212.04089, addition",
    check=_check,
    laws={"permutation", "homogeneous", "zero", "additive"},
)
def task_arithmetic(
    count: int, *, coefficients: Coefficients = 1.0, normalize: bool = False
) -> Float64[np.ndarray, "task"]:
    """The weighted sum of the deltas: Σ c_t δ_t, summed in float64 in task order.

    Zero, equal and opposed inputs give 0, T times the input and 0; 0-d and empty tensors keep their shape.

    Args:
        count: how many tasks there are.
        coefficients: one number, or one a task.
        normalize: whether to divide by the sum of the coefficients, as mergekit can.

    Differs from the paper: nothing (its one scale for all tasks is `scale`).
    """
    return np.full(count, shares(coefficients, normalize))
