"""Folds that find, for each task, the magnitude above which its kept entries lie; exact, in two passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from taskvec.methods._method import Fold
from taskvec.methods._order import order_folds


def magnitude_folds(
    *, scope: Literal["tensor", "model"], ranks: Callable[..., Any], of: Callable[..., Any] | None = None
) -> tuple[Fold, Fold]:
    """Two folds whose state is the float32 pattern of each task's k-th largest magnitude, as int64 (task,).

    `ranks(entries, tasks, **parameters)` gives each task's k; a task with k = 0 keeps nothing (its pattern is above
    all). `of(block, **what a step gets)` says what to rank instead of the block itself.
    """

    def values(block: Any, **given: Any) -> Any:
        return block if of is None else of(block, **given)

    def columns(counted: Any, entries: int, **parameters: Any) -> Any:
        return ranks(entries, counted.size, **parameters)[:, None]

    def patterns(total: Any, state: Any, entries: int, **parameters: Any) -> Any:
        import numpy as np

        numbers = lower.finish(total, state, entries, **parameters).values[:, 0]
        return numbers.astype(np.float32).view(np.uint32).astype(np.int64)

    upper, lower = order_folds(values, columns, scope=scope, magnitudes=True)
    return upper, Fold(lower.step, patterns, scope, counts=True)
