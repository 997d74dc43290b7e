"""CART: the average, plus what is low-rank in each model's distance from it."""

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.checkpoint.decompositions import leading_of
from taskvec.methods._method import merge_method
from taskvec.methods._parameters import Fraction


@merge_method(
    source="centered arithmetic with rank-reduced task vectors (CART), as described in the literature",
    acts_on="matrix",
    otherwise="average",
    laws={"permutation", "homogeneous", "zero", "idempotent"},
)
def cart(deltas: Float[Tensor, "task m n"], *, density: Fraction = 0.08, scale: float = 1.0) -> Float[Tensor, "m n"]:
    """The mean delta, plus `scale` times the sum of the best low-rank approximations of the deltas around it.

    With δ̄ the mean and r = min(m, n): δ̄ + scale · Σ_t SVD_k(δ_t - δ̄), k = floor(density · r) but at least 1. The full
    rank adds nothing, since the distances sum to 0. Other tensors get the mean of the deltas.

    Zero inputs give 0, equal ones themselves, opposed ones 0: of one or two tasks it is the average, because two
    distances from their mean are opposed. Tensors that are 0-d, empty or vectors are not matrices.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: the share of the rank that is kept.
        scale: multiplies what is added to the mean (of matrices only).

    Differs from the paper: nothing known (written from descriptions of it).
    """
    mean = deltas.mean(0, dtype=torch.float64)
    rank, merged = max(1, int(density * min(mean.shape))), mean.clone()
    for delta in deltas:
        merged += scale * leading_of(delta - mean, rank).triplets.matrix()
    return merged
