"""Karcher mean: the point of the sphere closest to all directions, at the mean length (arXiv:2603.04972)."""

from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float64

from taskvec.methods._method import linear_method
from taskvec.methods._parameters import NonNegative, Range
from taskvec.ops.arcs import karcher_mean, squares_of


@linear_method(
    source="arXiv:2603.04972, as mergekit iterates it",
    space="point",
    base="none",
    gram="tensor",
    laws={"permutation", "homogeneous", "zero", "idempotent"},
)
def karcher(
    gram: Float64[np.ndarray, "task task"],
    *,
    max_iter: Annotated[int, Range(1, closed=True)] = 10,
    tol: NonNegative = 1e-5,
    dialect: Literal["paper", "mergekit"] = "paper",
) -> Float64[np.ndarray, "task"]:
    """The Karcher mean of the directions of the flattened tensors, times the mean of their norms.

    Iterated from the normalised mean, in the coefficients of the inputs: every iterate is a combination of them, and
    their inner products are all it takes. Inputs of norm 0 have no direction, and count in the mean norm only.

    Zero inputs give 0, equal ones themselves. Where the directions cancel (opposed inputs; 0-d tensors of both signs)
    no mean is nearer than another, and the result is the plain mean; empty tensors keep their shape.

    Args:
        gram: the inner products of the tensors.
        max_iter: the most steps.
        tol: stop when a step is shorter than this, in radians.
        dialect: mergekit leaves out directions of inputs of norm up to `tol`, and starts at the first of the others
            where the directions cancel.

    Differs from the paper: nothing that mergekit's code does, but for directions that cancel.
    """
    norms = np.sqrt(squares_of(gram))
    used = np.flatnonzero(norms > (tol if dialect == "mergekit" else 0.0))
    if not len(used):
        return np.zeros_like(norms)
    corner = dialect == "mergekit"
    mean = karcher_mean(gram[np.ix_(used, used)], max_iter=max_iter, tol=tol, first=corner)
    if mean is None:
        return np.full_like(norms, 1.0 / len(norms))
    found = np.zeros_like(norms)
    found[used] = mean / norms[used] * norms.mean()
    return found
