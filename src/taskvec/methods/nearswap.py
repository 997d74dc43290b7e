"""NearSwap: move the base to another model where the two are close, and less the further they are apart."""

from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import merge_method
from taskvec.methods._parameters import Range


@merge_method(
    source="mergekit, nearswap",
    space="point",
    base="required",
    least=1,
    most=1,
    laws={"zero", "idempotent"},
)
def nearswap(
    points: Float[Tensor, "task *shape"], *, t: Annotated[float, Range(0.0)], base: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """(1 − w) base + w θ, with w = t / |θ − base| at most 1: where they differ by up to t, the other model.

    Elsewhere the base moves by t towards it. t is absolute: results do not scale with the inputs.

    Zero gives 0, a model equal to the base itself; 0-d and empty tensors keep their shape.

    Args:
        points: the other model, stacked on axis 0.
        t: how far an entry of the base may move.
        base: the model to start from.

    Differs from the paper: nothing; there is no paper. Differences below 1e-6 count as that, as in mergekit.
    """
    a, b = base.double(), points[0].double()
    w = (t / (a - b).abs().clamp(min=1e-6)).clamp(max=1.0)
    return w * b + (1.0 - w) * a
