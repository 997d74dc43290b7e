"""Model Stock: the average of tuned models, moved towards their base (Jang et al., ECCV 2024, arXiv:2403.19522)."""

from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from taskvec.methods._method import GramOf, linear_method


def _gram(*, filter_wise: bool, **_: object) -> GramOf:
    return "row" if filter_wise else "tensor"


def _cosines(gram: Tensor, floor: float) -> Tensor:
    """The mean cosine of all pairs (*unit,); a pair with a zero delta counts 0."""
    squares = gram.diagonal(dim1=-2, dim2=-1)
    products = (squares[..., :, None] * squares[..., None, :]).sqrt().clamp(min=floor)
    cosines = torch.where(products > 0, gram / torch.where(products > 0, products, 1.0), 0.0).clamp(-1.0, 1.0)
    first, second = torch.triu_indices(gram.shape[-1], gram.shape[-1], 1)
    return cosines[..., first, second].mean(-1)


@linear_method(
    source="arXiv:2403.19522, interpolation ratio",
    gram=_gram,
    least=2,
    laws={"permutation", "homogeneous", "zero", "idempotent"},
)
def model_stock(
    gram: Float64[Tensor, "*unit task task"],
    *,
    filter_wise: bool = False,
    dialect: Literal["paper", "mergekit"] = "paper",
) -> Float64[Tensor, "*unit task"]:
    """The mean delta times t = T c / (1 + (T − 1) c), with c the mean cosine of all pairs of deltas.

    Meant for models of ONE task, tuned from one base with other seeds or settings: if δ_t = μ + noise of equal norms,
    orthogonal to μ and to each other, then c estimates ‖μ‖² / ‖δ‖², and t · mean is the multiple of the mean closest
    to μ. c ≤ 0 gives t = 0, so 0 ≤ t ≤ 1.

    Zero inputs give 0, equal ones themselves, opposed ones 0; a zero delta makes its cosines 0; 0-d tensors have
    cosines 1 and −1, empty ones keep their shape. One vector is refused.

    Args:
        gram: the inner products of the deltas of a tensor, or of each of its rows.
        filter_wise: one t for each row (last axis) instead of one for the tensor.
        dialect: mergekit floors the product of two norms at 1e-6 and lets a negative c extrapolate.

    Differs from the paper: more than two models are not fixed there (their cosines are averaged); t is not negative.
    """
    tasks = gram.shape[-1]
    c = _cosines(gram, 1e-6 if dialect == "mergekit" else 0.0)
    below = 1.0 + (tasks - 1) * c
    if dialect == "mergekit":
        t = torch.where(below.abs() < 1e-6, 0.0, tasks * c / torch.where(below.abs() < 1e-6, 1.0, below))
    else:
        t = torch.where(c > 0, tasks * c / torch.where(c > 0, below, 1.0), 0.0)
    return (t / tasks)[..., None].expand(*t.shape, tasks)
