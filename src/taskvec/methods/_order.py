"""Folds that find exact order statistics of what a method makes of each block; two passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from taskvec.methods._method import Fold


class Ordered(NamedTuple):
    """The state after `order_folds`: that of the fold before them, and float64 order statistics (row, rank)."""

    before: Any
    values: Any


class _Bins(NamedTuple):
    before: Any
    bins: Any
    ranks: Any


def order_folds(
    values: Callable[..., Any],
    ranks: Callable[..., Any],
    *,
    scope: Literal["tensor", "model"],
    magnitudes: bool = False,
) -> tuple[Fold, Fold]:
    """Two folds whose state is `Ordered`: the order statistics that `ranks` asks for, of the rows of `values`.

    `values(block, state=…, **what a step gets)` maps a block to float32 numbers (row, n) of any sign, with NaN for
    what shall not count; with `magnitudes` their signs are left aside. `state` is that of the fold before, in both
    passes. `ranks(counted, entries, **parameters)` maps how many entries of each row counted (row,), and how many
    entries there were, to integers (row, rank): 1 asks for the largest, 0 for +∞.
    """

    def upper(block: Any, **given: Any) -> Any:
        from taskvec.ops.thresholds import upper_counts

        return upper_counts(values(block, **given), magnitudes=magnitudes)

    def bins(total: Any, before: Any, entries: int, **parameters: Any) -> _Bins:
        import numpy as np

        from taskvec.ops.thresholds import locate

        wanted = ranks(total.sum(1), entries, **parameters)
        found = [[locate(c, int(k)) for k in ks] for c, ks in zip(total, wanted, strict=True)]
        located = np.array(found, np.int64).reshape(*wanted.shape, 2)
        return _Bins(before, located[..., 0], np.where(wanted > 0, located[..., 1], 0))

    def lower(block: Any, *, state: _Bins, **given: Any) -> Any:
        from taskvec.ops.thresholds import lower_counts

        return lower_counts(values(block, state=state.before, **given), state.bins, magnitudes=magnitudes)

    def numbers(total: Any, state: _Bins, entries: int, **_: Any) -> Ordered:
        import numpy as np

        from taskvec.ops.thresholds import locate, number_of

        found = np.full(state.ranks.shape, np.inf)
        for at, rank in np.ndenumerate(state.ranks):
            if rank > 0:
                found[at] = number_of(int(state.bins[at]), locate(total[at], int(rank))[0])
        return Ordered(state.before, found)

    return Fold(upper, bins, scope, counts=True), Fold(lower, numbers, scope, counts=True)
