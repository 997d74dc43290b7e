"""Task arithmetic: the sum of the task vectors (Ilharco et al., ICLR 2023, arXiv:2212.04089)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from taskvec.methods._method import linear_method
from taskvec.methods._parameters import Coefficients


@linear_method(
    source="arXiv:2212.04089, addition",
    laws={"permutation", "homogeneous", "zero", "additive"},
)
def task_arithmetic(count: int, *, coefficients: Coefficients = 1.0) -> Float64[Tensor, "task"]:
    """The weighted sum of the deltas: Σ c_t δ_t, summed in float64 in task order.

    Zero, equal and opposed inputs give 0, T times the input and 0; 0-d and empty tensors keep their shape.

    Args:
        count: how many tasks there are.
        coefficients: one number, or one a task.

    Differs from the paper: nothing (its one scale for all tasks is `scale`).
    """
    return torch.as_tensor(coefficients, dtype=torch.float64).expand(count)
