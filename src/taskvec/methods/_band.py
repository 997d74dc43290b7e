"""The band of magnitudes that Breadcrumbs keeps: below the largest, above the small."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from taskvec.errors import ParameterError
from taskvec.methods._method import ActsOn, Fold, merge_method
from taskvec.methods._order import order_folds
from taskvec.ops.signs import column
from taskvec.ops.thresholds import kept

if TYPE_CHECKING:
    from torch import Tensor

Scope = Literal["tensor", "row"]


def check_band(method: str, density: tuple[float, ...], gamma: float, dialect: str, scope: Scope) -> None:
    """Refuse a band that does not exist.

    Raises:
        ParameterError: more is kept and removed than there is (mergekit's dialect removes less instead).
    """
    if dialect != "paper":
        if scope != "tensor":
            raise ParameterError(
                f"{method}: scope='{scope}' has no meaning in the dialect '{dialect}'.", "leave it out."
            )
        return
    for d in density:
        if d + gamma > 1.0:
            raise ParameterError(
                f"{method}: density={d!r} and gamma={gamma!r} are together above 1.",
                "lower one of them (gamma is the fraction removed at the top).",
            )


def places(entries: int, density: float, gamma: float, dialect: str) -> tuple[int, int]:
    """The places, from the largest, of the first and the last magnitude kept; a last place of 0 keeps nothing."""
    if dialect == "paper":
        removed = min(math.floor(gamma * entries), entries - 1)
        return removed + 1, removed + min(kept(density, entries), entries - removed)
    count = math.floor(density * entries)
    removed = min(math.floor(gamma * entries), entries - count) if density < 1.0 else 0
    return min(removed + 1, entries), removed + count if count else 0


def _folds(*, density: Any, scope: Scope, **_: Any) -> tuple[Fold, ...]:
    """Folds whose state holds each task's largest and smallest magnitude kept, in each tensor; none for rows."""
    if scope == "row":
        return ()

    def values(block: Any, **_: Any) -> Any:
        return block

    def ranks(counted: Any, entries: int, *, density: Any, gamma: float, dialect: str = "paper", **_: Any) -> Any:
        return np.array([places(entries, d, gamma, dialect) for d in density], np.int64)

    return order_folds(values, ranks, scope="tensor", magnitudes=True)


def _unit(*, scope: Scope, **_: Any) -> ActsOn:
    """How finely a tensor may be cut."""
    return "element" if scope == "tensor" else "row"


def limits(state: Any) -> tuple[Any, Any]:
    """Each task's largest and smallest magnitude kept, float32 (task,)."""
    values = state.values.astype(np.float32)
    return values[:, 0].copy(), values[:, 1].copy()


def band(stacked: Tensor, *, state: Any, density: Any, gamma: float, scope: Scope) -> Tensor:
    """The entries in the band; the others are 0."""
    import torch

    if scope == "row":
        return _row_band(stacked, density, gamma)
    high, low = (column(x, stacked).float() for x in limits(state))
    size = stacked.abs()
    return torch.where((size >= low) & (size <= high), stacked, 0.0)


def _row_band(stacked: Tensor, density: Any, gamma: float) -> Tensor:
    """The published code's: floor(density · m) entries of each row of m entries; scalars stay."""
    import torch

    if stacked.ndim == 1 or not stacked.numel():
        return stacked
    m = stacked.shape[-1]
    removed = math.floor(gamma * m)
    size = stacked.abs()
    ordered = size.sort(dim=-1, descending=True).values
    out = torch.zeros_like(stacked)
    for task, d in enumerate(density):
        count = min(math.floor(d * m), m - removed)
        if count:
            high, low = ordered[task, ..., removed, None], ordered[task, ..., removed + count - 1, None]
            out[task] = torch.where((size[task] >= low) & (size[task] <= high), stacked[task], 0.0)
    return out


# What all methods that keep such a band declare.
band_method = functools.partial(
    merge_method,
    acts_on=_unit,
    folds=_folds,
    laws={"permutation", "homogeneous", "zero"},
    dialects={"mergekit": {"density": 1.0, "gamma": 0.01}},
)
