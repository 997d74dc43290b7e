"""The tasks' leading singular triplets made orthogonal to those of the others, a task at a time (arXiv:2412.00081)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskvec.ops.polar import polar
from taskvec.ops.spectral import decompose

_NOISE = 2.0**-20  # singular values below this share of a delta's largest are the rounding of its float32 entries


def decorrelated(
    stacked: Float[Tensor, "task m n"], rank: int, *, tolerance: float = 1e-6
) -> Float64[Tensor, "task m n"]:
    """U⊥[:, t] diag(s_t) V⊥[:, t]ᵀ of every task, from the `rank` largest triplets of its delta.

    U⊥ and V⊥ are the polar factors of all left and of all right vectors side by side, over directions stronger than
    `tolerance` times the strongest: equal tasks share theirs, and each gets its share. Parts of different tasks are
    orthogonal to each other where nothing was dropped.
    """
    spectra = [decompose(delta.double(), rank) for delta in stacked]
    spectra = [x.top(int((x.s > _NOISE * x.s[:1]).sum())) for x in spectra]
    left = polar(torch.cat([x.u for x in spectra], 1), tolerance=tolerance).factor
    right = polar(torch.cat([x.v for x in spectra], 1), tolerance=tolerance).factor
    cuts = [x.rank for x in spectra]
    sides = zip(spectra, torch.split(left, cuts, 1), torch.split(right, cuts, 1), strict=True)
    return torch.stack([(u * x.s) @ v.T for x, u, v in sides])
