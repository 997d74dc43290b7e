"""Two methods that only tests register: one that draws and has dialects, and one that needs matrices; and points."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.methods import merge_method
from taskvec.methods._parameters import Fraction, Seed


@merge_method(source="a test", laws={"zero"})
def drawing_test(
    deltas: Float[Tensor, task * shape],
    *,
    density: Fraction = 0.5,
    dialect: Literal["paper", "mergekit"] = "paper",
    seed: Seed = 0,
    at: Any,
) -> Float[Tensor, "*shape"]:
    """Keep entries whose number, seed and dialect agree in the last bits."""
    position = torch.arange(deltas[0].numel()) + at.start + seed + (dialect == "mergekit")
    return deltas.sum(0) * (position % 4 < 4 * density).reshape(deltas.shape[1:])


@merge_method(source="a test", acts_on="matrix", otherwise="average", laws={"zero"})
def matrix_test(deltas: Float[Tensor, "task m n"], *, rank: int = 1) -> Float[Tensor, "m n"]:
    """The sum, for matrices."""
    return deltas.sum(0) * rank


@merge_method(source="a test", space="point", base="none")
def point_test(points: Float[Tensor, task * shape], *, t: Fraction = 0.5) -> Float[Tensor, "*shape"]:
    """Between the first and the last."""
    return (1 - t) * points[0] + t * points[-1]
