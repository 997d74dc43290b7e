"""Task arithmetic: the sum of the task vectors (Ilharco et al., ICLR 2023, arXiv:2212.04089)."""

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import merge_method
from taskvec.methods._parameters import Coefficients


@merge_method(
    source="arXiv:2212.04089, addition",
    laws={"permutation", "homogeneous", "zero", "additive"},
)
def task_arithmetic(
    deltas: Float[Tensor, "task *shape"], *, coefficients: Coefficients = 1.0
) -> Float[Tensor, "*shape"]:
    """The weighted sum of the deltas: Σ c_t δ_t, summed in float64 in task order.

    Zero, equal and opposed inputs give 0, T times the input and 0; 0-d and empty tensors keep their shape.

    Args:
        deltas: one delta a task, stacked on axis 0.
        coefficients: one number, or one a task.

    Differs from the paper: nothing (its one scale for all tasks is `scale`).
    """
    weights = torch.as_tensor(coefficients, dtype=torch.float64).reshape(-1, *[1] * (deltas.ndim - 1))
    return (weights * deltas.double()).sum(0)
