"""Sign votes on stacked tensors (task, *shape): who is elected, and what those who agree make of it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregate = Literal["mean", "sum", "max"]
ROUNDING = 2.0**-40  # relative to the sum of magnitudes: covers a float64 sum of up to 4096 terms


def keep(stacked: Tensor, patterns: Tensor) -> Tensor:
    """Zero the entries whose float32 magnitude pattern is below the row's; what equals it stays."""
    bar = patterns.to(torch.int32).reshape(-1, *[1] * (stacked.ndim - 1))
    return torch.where(stacked.abs().view(torch.int32) >= bar, stacked, 0.0)


def elect(kept: Tensor) -> Tensor:
    """The sign of the sum over tasks, in float64; 0 where the votes cancel to within rounding: nobody is elected."""
    votes = kept.double()
    total = votes.sum(0)
    return torch.where(total.abs() > ROUNDING * votes.abs().sum(0), total.sign(), 0.0)


def agree(kept: Tensor, elected: Tensor, *, aggregate: Aggregate = "mean") -> Tensor:
    """The mean, sum or largest of the non-zero entries whose sign is the elected one; 0 where there is none."""
    values = torch.where((kept.sign() == elected) & (elected != 0), kept.double(), 0.0)
    if aggregate == "max":
        return elected * values.abs().amax(0) if kept.shape[0] else values.sum(0)
    total = values.sum(0)
    return total if aggregate == "sum" else total / (values != 0).sum(0).clamp(min=1)
