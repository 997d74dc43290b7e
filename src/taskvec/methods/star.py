"""STAR: each delta's leading triplets, with its nuclear norm (spectral truncation and rescale)."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskvec.methods._method import merge_method
from taskvec.methods._parameters import Fraction
from taskvec.ops.reshaping import reshaped

_NOISE = 2.0**-24  # singular values below this share of the largest are rounding


def _truncated(delta: Tensor, density: float) -> Float64[Tensor, "m n"]:
    def kept(s: Tensor) -> Tensor:
        sums = s.where(s > _NOISE * s[0], 0.0).cumsum(0)
        count = int((sums < density * sums[-1] * (1.0 - 2.0**-40)).sum()) + 1
        return s * (torch.arange(len(s)) < count) * (sums[-1] / sums[count - 1])

    return reshaped(delta, kept)


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
