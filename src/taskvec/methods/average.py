"""Average: the mean of the task vectors; with a base, the uniform soup of the tuned models (arXiv:2203.05482)."""

from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import merge_method


@merge_method(
    source="arXiv:2203.05482, uniform soup",
    laws={"permutation", "homogeneous", "zero", "idempotent", "additive"},
)
def average(deltas: Float[Tensor, "task *shape"]) -> Float[Tensor, "*shape"]:
    """The mean of the deltas: (1/T) Σ δ_t, summed in float64 in task order.

    Zero, equal and opposed inputs give 0, the input and 0; 0-d and empty tensors keep their shape.

    Differs from the paper: nothing.
    """
    return deltas.double().sum(0) / deltas.shape[0]
