"""Model Stock: the average of tuned models, moved towards their base (Jang et al., ECCV 2024, arXiv:2403.19522)."""

from typing import Literal

import numpy as np
from jaxtyping import Float64

from taskvec.methods._method import GramOf, linear_method
from taskvec.ops.arcs import ratio, squares_of
from taskvec.ops.bits import Floats


def _gram(*, filter_wise: bool, **_: object) -> GramOf:
    return "row" if filter_wise else "tensor"


def _cosines(gram: Floats, floor: float) -> Floats:
    """The mean cosine of all pairs (*unit,); a pair with a zero delta counts 0."""
    squares = squares_of(gram)
    products = np.sqrt(squares[..., :, None] * squares[..., None, :]).clip(floor)
    first, second = np.triu_indices(gram.shape[-1], 1)
    mean: Floats = ratio(gram, products).clip(-1.0, 1.0)[..., first, second].mean(-1)
    return mean


@linear_method(
    source="arXiv:2403.19522, interpolation ratio",
    gram=_gram,
    least=2,
    laws={"permutation", "homogeneous", "zero", "idempotent"},
)
def model_stock(
    gram: Float64[np.ndarray, "*unit task task"],
    *,
    filter_wise: bool = False,
    dialect: Literal["paper", "mergekit"] = "paper",
) -> Float64[np.ndarray, "*unit task"]:
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
        t = np.where(np.abs(below) < 1e-6, 0.0, tasks * c / np.where(np.abs(below) < 1e-6, 1.0, below))
    else:
        t = np.where(c > 0, tasks * c / np.where(c > 0, below, 1.0), 0.0)
    return np.repeat((t / tasks)[..., None], tasks, -1)
