"""NuSLERP: slerp with two coefficients, of models or task vectors; one angle a tensor, row or column."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from taskvec.methods._method import REQUIRED, GramOf, linear_method
from taskvec.methods._parameters import Coefficients, check_divisor
from taskvec.ops.arcs import arc
from taskvec.ops.signs import ROUNDING


def _gram(*, angles: GramOf, **_: object) -> GramOf:
    return angles


def _share(coefficients: Any, dialect: str) -> float:
    """Where on the way from the first input to the second: c_2 / (c_1 + c_2)."""
    total = sum(coefficients)
    return 0.5 if dialect == "mergekit" and abs(total) < 1e-6 else float(coefficients[1] / total)


def _check(*, coefficients: Any, dialect: str, **_: Any) -> None:
    if dialect == "paper":
        check_divisor("nuslerp", coefficients)


@linear_method(
    source="mergekit, nuslerp",
    space="either",
    base="optional",
    gram=_gram,
    least=2,
    most=2,
    laws={"homogeneous", "zero", "idempotent"},
    check=_check,
    dialects={"mergekit": {"coefficients": REQUIRED}},
)
def nuslerp(
    gram: Float64[np.ndarray, "*unit task task"],
    *,
    coefficients: Coefficients = 1.0,
    angles: Literal["tensor", "row", "column"] = "tensor",
    dialect: Literal["paper", "mergekit"] = "paper",
) -> Float64[np.ndarray, "*unit task"]:
    """[sin((1 − t)φ) a + sin(tφ) b] / sin φ with t = c_2 / (c_1 + c_2), linear where a and b are parallel.

    Of task vectors, or of models (with a base: of their displacements from it, added to it).

    Equal inputs give themselves, zero and opposed ones their linear mean; a 0-d tensor or a vector has one angle;
    empty tensors keep their shape. Coefficients that sum to 0 are refused.

    Args:
        gram: the inner products of the two tensors, or of each of their rows or columns.
        coefficients: one for each of the two inputs; only their ratio matters.
        angles: one φ for the tensor, for each row (last axis), or for each column (first axis).
        dialect: mergekit floors norms at 1e-7, and takes t = 1/2 for coefficients that sum to less than 1e-6. Its
            `nuslerp_flatten: false` is angles="row", with `nuslerp_row_wise: true` it is angles="column".

    Differs from the paper: nothing; there is no paper. Parallel means 1 − cos² ≤ 2^-40 (mergekit: 1e-16).
    """
    share = _share(coefficients, dialect)
    if dialect == "mergekit":
        return arc(gram, share, floor=1e-7, straight=1e-16, clamp=True)
    return arc(gram, share, floor=0.0, straight=ROUNDING)
