"""Linear: a weighted mean of models, the weighted soup (Wortsman et al., ICML 2022, arXiv:2203.05482)."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import REQUIRED, merge_method
from taskvec.methods._parameters import Coefficients, check_divisor


def _check(*, coefficients: Any, normalize: bool, **_: Any) -> None:
    if normalize:
        check_divisor("linear", coefficients)


def _weigh(count: int, *, coefficients: Any, normalize: bool, dialect: str) -> Tensor | None:
    given = torch.tensor(coefficients, dtype=torch.float64)
    return None if dialect == "mergekit" else given / given.sum() if normalize else given


@merge_method(
    source="arXiv:2203.05482, weighted soup",
    space="point",
    base="none",
    weigh=_weigh,
    check=_check,
    laws={"permutation", "homogeneous", "zero", "idempotent", "additive"},
    dialects={"mergekit": {"coefficients": REQUIRED}},
)
def linear(
    points: Float[Tensor, "task *shape"],
    *,
    coefficients: Coefficients = 1.0,
    normalize: bool = True,
    dialect: Literal["paper", "mergekit"] = "paper",
) -> Float[Tensor, "*shape"]:
    """The weighted mean of the models: Σ c_t θ_t / Σ c_t, summed in float64 in the order of the inputs.

    Equal models give themselves, 0-d and empty tensors keep their shape. Coefficients that sum to 0 are refused.

    Args:
        points: one model a task, stacked on axis 0.
        coefficients: one number, or one a task.
        normalize: divide by the sum of the coefficients.
        dialect: mergekit computes in float32, in the order of the inputs: products, sums, the sum of the
            coefficients, the quotient; here bit for bit so, but that −0.0 becomes 0.0. It wants coefficients.

    Differs from the paper: nothing.
    """
    single = dialect == "mergekit"
    each = torch.tensor(coefficients, dtype=torch.float32 if single else torch.float64)
    stacked = points.float() if single else points.double()
    total = torch.zeros_like(stacked[0])
    for coefficient, point in zip(each, stacked, strict=True):
        total = total + coefficient * point
    return total / each.sum() if normalize else total
