"""Multi-SLERP: the direction of the weighted mean of unit vectors, at the weighted mean length."""

import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from taskvec.errors import ParameterError
from taskvec.methods._method import REQUIRED, linear_method
from taskvec.methods._parameters import Coefficients, NonNegative, check_divisor
from taskvec.ops.arcs import cosines, squares_of
from taskvec.ops.signs import ROUNDING


def _check(*, coefficients: Any, normalize: bool, **_: Any) -> None:
    if normalize:
        check_divisor("multislerp", coefficients)


@linear_method(
    source="mergekit, multislerp",
    space="either",
    base="optional",
    gram="tensor",
    laws={"permutation", "homogeneous", "zero", "idempotent"},
    check=_check,
    dialects={"mergekit": {"coefficients": REQUIRED, "eps": 1e-8}},
)
def multislerp(
    gram: Float64[np.ndarray, "task task"],
    *,
    coefficients: Coefficients = 1.0,
    normalize: bool = True,
    eps: NonNegative = 0.0,
    dialect: Literal["paper", "mergekit"] = "paper",
) -> Float64[np.ndarray, "task"]:
    """Σ w_t u_t / ‖Σ w_t u_t‖ · Σ w_t ‖x_t‖, with u_t = x_t / ‖x_t‖: of task vectors, or of models.

    mergekit adds a step along Σ w_t (u_t − (u_t · m) m), which is 0 because m is parallel to Σ w_t u_t. With a base
    the displacements from it are merged, and added to it.

    Zero inputs give 0, equal ones themselves; where the unit vectors cancel (opposed inputs; 0-d tensors of both
    signs) the result is Σ w_t x_t; empty tensors keep their shape. Coefficients that sum to 0 are refused.

    Args:
        gram: the inner products of the tensors.
        coefficients: one number, or one a task.
        normalize: divide the coefficients by their sum.
        eps: added to norms (mergekit: 1e-8); a mean direction shorter than this counts as 0.
        dialect: mergekit refuses more than two inputs whose unit vectors cancel, and returns a single input as it is.

    Differs from the paper: nothing; there is no paper.
    """
    given = np.array(coefficients, np.float64)
    if dialect == "mergekit" and len(given) == 1:
        return np.ones_like(given)
    w, norms = given / given.sum() if normalize else given, np.sqrt(squares_of(gram))
    length = max(float(w @ cosines(gram, eps) @ w), 0.0)
    if not norms.any():
        return np.zeros_like(w)
    if length <= max(eps**2, ROUNDING * float(np.abs(w).sum()) ** 2):
        if dialect == "mergekit" and len(w) > 2:
            fix = 'use other coefficients, or dialect="paper" (their linear mean).'
            raise ParameterError(f"multislerp: the directions of the {len(w)} inputs cancel in a tensor.", fix)
        return w
    below = np.where(norms > 0, norms + eps, 1.0) * math.sqrt(length)
    return np.where(norms > 0, w * (w @ norms) / below, 0.0)
