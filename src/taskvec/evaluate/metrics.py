"""Metrics: from logits and labels to one outcome an example."""

from collections.abc import Callable
from types import MappingProxyType

from jaxtyping import Bool, Float, Int
from torch import Tensor

from taskvec.errors import UnknownName

Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(logits: Float[Tensor, "input class"], labels: Int[Tensor, " input"]) -> Bool[Tensor, " input"]:
    """Whether the largest logit is the label's; of equal logits the first counts."""
    return logits.argmax(dim=-1) == labels


METRICS = MappingProxyType({"accuracy": accuracy})


def metric_of(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UnknownName: there is none; the nearest name is suggested.
    """
    if name not in METRICS:
        raise UnknownName.among(f"there is no metric '{name}'.", name, METRICS)
    return METRICS[name]
