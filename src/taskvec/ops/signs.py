"""Sign votes on stacked tensors (task, *shape): who is elected, and what those who agree make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Aggregate = Literal["mean", "sum", "max"]
ROUNDING = 2.0**-40  # relative to the sum of magnitudes: covers a float64 sum of up to 4096 terms


class Rule(NamedTuple):
    """How entries vote, and what those who agree become.

    `votes`: the values, the values times the coefficients, or the signs are added up. `tie`: the sign that a zero
    vote elects. `divisor`: the sum of the agreeing values times their coefficients is divided by nothing, by their
    number, or by the sum of their coefficients (by 1 where that is 0).
    """

    votes: Literal["values", "weighted", "signs"] = "values"
    tie: float = 0.0
    divisor: Literal["none", "count", "coefficients"] = "count"

    @property
    def codes(self) -> tuple[int, float, int]:
        """The same for the compiled loops."""
        votes, divisors = ("values", "weighted", "signs"), ("none", "count", "coefficients")
        return votes.index(self.votes), float(self.tie), divisors.index(self.divisor)


def keep(stacked: Tensor, patterns: Any) -> Tensor:
    """Zero the entries whose float32 magnitude pattern is below the row's; what equals it stays."""
    import torch

    bar = torch.as_tensor(patterns).to(torch.int32).reshape(-1, *[1] * (stacked.ndim - 1))
    return torch.where(stacked.abs().view(torch.int32) >= bar, stacked, 0.0)


def elect(kept: Tensor, *, tie: float = 0.0) -> Tensor:
    """The sign of the sum over tasks, in float64; `tie` where the votes cancel to within rounding (0: nobody)."""
    import torch

    votes = kept.double()
    total = votes.sum(0)
    return torch.where(total.abs() > ROUNDING * votes.abs().sum(0), total.sign(), tie)


def agree(kept: Tensor, elected: Tensor, *, aggregate: Aggregate = "mean") -> Tensor:
    """The mean, sum or largest of the non-zero entries whose sign is the elected one; 0 where there is none."""
    import torch

    values = torch.where((kept.sign() == elected) & (elected != 0), kept.double(), 0.0)
    if aggregate == "max":
        return elected * values.abs().amax(0) if kept.shape[0] else values.sum(0)
    total = values.sum(0)
    return total if aggregate == "sum" else total / (values != 0).sum(0).clamp(min=1)


def column(values: Any, like: Tensor) -> Tensor:
    """One float64 number a task, in a shape that multiplies a stack (task, *shape) like `like`."""
    import torch

    return torch.as_tensor(np.asarray(values, np.float64)).reshape(-1, *[1] * (like.ndim - 1))


def fuse(kept: Tensor, coefficients: Any, rule: Rule) -> Tensor:
    """The outcome, in float64, of a vote by `rule` over kept entries (task, *shape)."""
    import torch

    values = kept.double()
    weights = column(coefficients, kept)
    weighed = weights * values
    votes = {"values": values, "weighted": weighed, "signs": values.sign()}[rule.votes]
    elected = elect(votes, tie=rule.tie)
    agrees = (votes.sign() == elected) & (votes != 0) & (elected != 0)
    total = torch.where(agrees, weighed, 0.0).sum(0)
    if rule.divisor == "none":
        return total
    shares = weights if rule.divisor == "coefficients" else torch.ones_like(weights)
    divisor = torch.where(agrees, shares, 0.0).sum(0)
    return total / torch.where(divisor == 0, 1.0, divisor)


def bars(patterns: Any) -> Any:
    """Float32 magnitudes with these patterns: |x| reaches one exactly where its pattern does (NaN: never)."""
    return np.asarray(patterns, np.int64).reshape(-1).astype(np.uint32).view(np.float32)
