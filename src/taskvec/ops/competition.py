"""How entries of several tasks compete (PCB): the plain definitions behind `competition_kernels`."""

from __future__ import annotations

import torch
from torch import Tensor

from taskvec.ops.signs import ROUNDING


def clipped(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """|x| of (task, …) raised to each task's `low` and lowered to its `high`, in float64."""
    shape = (-1, *[1] * (x.ndim - 1))
    return x.double().abs().maximum(low.reshape(shape)).minimum(high.reshape(shape))


def scores(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """e^(T (g_t² - 1)) Σ_s tanh(y_t y_s) as float32, with g the clipped |x| from 0 (low) to 1 (high), y = sign(x) g.

    Where low = high, g says whether x is not 0. A sum that cancels to within rounding is 0.
    """
    tasks, shape = len(x), (-1, *[1] * (x.ndim - 1))
    span = (high - low).reshape(shape)
    g = torch.where(span > 0, (clipped(x, low, high) - low.reshape(shape)) / torch.where(span > 0, span, 1.0), 1.0)
    y = torch.where(x != 0, x.double().sign() * g, 0.0)
    inter, size = torch.zeros_like(y), torch.zeros_like(y)
    for other in range(tasks):
        pull = (y * y[other]).tanh()
        inter, size = inter + pull, size + pull.abs()
    inter = torch.where(inter.abs() > ROUNDING * size, inter, 0.0)
    return ((tasks * (y**2 - 1.0)).exp() * inter).float()


def weights(score: Tensor, quantile: Tensor, top: Tensor) -> Tensor:
    """The scores of (task, …) from 0 (each task's `quantile`) to 1 (its `top`); if equal, whether at the top."""
    shape = (-1, *[1] * (score.ndim - 1))
    beta, low, high = score.double(), quantile.reshape(shape), top.reshape(shape)
    reach = high - low
    rising = ((beta - low) / torch.where(reach > 0, reach, 1.0)).clamp(0.0, 1.0)
    return torch.where(reach > 0, rising, ((beta == high) & (beta > 0)).double())
