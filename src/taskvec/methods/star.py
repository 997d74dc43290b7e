"""STAR: each delta's leading triplets, with its nuclear norm (spectral truncation and rescale)."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskvec.methods._method import merge_method
from taskvec.methods._parameters import Fraction
from taskvec.ops.spectral import decompose


def _truncated(delta: Tensor, density: float) -> Float64[Tensor, "m n"]:
    found = decompose(delta.double())
    sums = found.s.cumsum(0)
    if not found.rank or float(sums[-1]) == 0.0:
        return torch.zeros(delta.shape, dtype=torch.float64)
    kept = found.top(int((sums < density * sums[-1] * (1.0 - 2.0**-40)).sum()) + 1)
    return kept.matrix() * (sums[-1] / sums[kept.rank - 1])


@merge_method(
    source="spectral truncation and rescale (STAR), as described in the literature",
    acts_on="matrix",
    otherwise="average",
    laws={"permutation", "homogeneous", "zero"},
)
def star(deltas: Float[Tensor, "task m n"], *, density: Fraction = 0.4) -> Float[Tensor, "m n"]:
    """The mean of the deltas, each cut to its largest triplets and rescaled to its nuclear norm.

    Of δ_t = U diag(σ) Vᵀ the first k stay, the smallest k with Σ_{j ≤ k} σ_j >= density · Σ_j σ_j, and are multiplied
    by Σ_j σ_j / Σ_{j ≤ k} σ_j. Other tensors get the mean of the deltas.

    Zero inputs give 0, equal ones what one of them gives, opposed ones 0; a matrix of rank 1 stays. density = 1 is the
    average. Tensors that are 0-d, empty or vectors are not matrices.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: the share of each delta's nuclear norm that is kept, in (0, 1] (published as η = 40 percent).

    Differs from the paper: nothing known (written from descriptions of it).
    """
    return torch.stack([_truncated(delta, density) for delta in deltas]).mean(0)
