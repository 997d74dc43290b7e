"""Linear: a weighted mean of models, the weighted soup (Wortsman et al., ICML 2022, arXiv:2203.05482)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from taskvec.methods._method import REQUIRED, merge_method
from taskvec.methods._parameters import Coefficients, check_divisor, shares
from taskvec.ops.signs import column
from taskvec.ops.sum_kernels import fused_sum

if TYPE_CHECKING:
    from torch import Tensor


def _check(*, coefficients: Any, normalize: bool, **_: Any) -> None:
    if normalize:
        check_divisor("linear", coefficients)


def _weigh(_: int, *, coefficients: Any, normalize: bool, dialect: str) -> Any:
    return None if dialect == "mergekit" else shares(coefficients, normalize)


def _single(coefficients: Any, normalize: bool) -> tuple[Any, Any]:
    """The float32 coefficients (task,), and their float32 sum as mergekit adds them, or 1."""
    each = np.array(coefficients, np.float32)
    if not normalize:
        return each, np.float32(1.0)
    if each.size <= 4:  # in their order; how torch groups more is its own affair
        return each, each.cumsum(dtype=np.float32)[-1]
    import torch

    return each, np.float32(torch.from_numpy(each)[None].sum(dim=1).item())


def _kernel(block: Any, *, coefficients: Any, normalize: bool, dialect: str, **_: Any) -> Any:
    if dialect != "mergekit":
        return None
    each, divisor = _single(coefficients, normalize)
    out = np.empty(block.shape[1])
    fused_sum(block, each, divisor, out)
    return out


@merge_method(
    source="arXiv:2203.05482, weighted soup",
    space="point",
    base="none",
    kernel=_kernel,
    weigh=_weigh,
    check=_check,
    laws={"permutation", "homogeneous", "zero", "idempotent", "additive"},
    dialects={"mergekit": {"coefficients": REQUIRED}},
)
def linear(
    points: Float[Tensor, task * shape],
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
        dialect: mergekit computes in float32, in the order of the inputs: each product is added with one rounding (a
            fused multiply-add), and the sum divided by that of the coefficients; here bit for bit so, but that −0.0
            becomes 0.0. It wants coefficients.

    Differs from the paper: nothing.
    """
    if dialect == "mergekit":
        each, divisor = _single(coefficients, normalize)
        return _fused(points, each) / float(divisor)
    return (column(shares(coefficients, normalize), points) * points.double()).sum(0)


def _fused(points: Tensor, each: Any) -> Tensor:
    """The sum of products in float32, each added with one rounding.

    A float64 product of float32 numbers is exact. What the float64 sum loses is put into its last bit (rounding to
    odd), so that rounding it to float32 is the only rounding.
    """
    import torch

    total = torch.zeros_like(points[0], dtype=torch.float32)
    for coefficient, point in zip(each.tolist(), points.double(), strict=True):
        product, before = coefficient * point, total.double()
        near = product + before
        back = near - product
        lost = (product - (near - back)) + (before - back)
        beyond = torch.nextafter(near, torch.copysign(torch.tensor(torch.inf, dtype=torch.float64), lost))
        even = near.view(torch.int64) % 2 == 0
        total = torch.where((lost != 0) & even, beyond, near).float()
    return total
