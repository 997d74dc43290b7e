"""Folds that find, for each task, the magnitude above which its kept entries lie; exact, in two passes."""

from __future__ import annotations

from typing import Any, Literal

from taskvec.methods._method import Fold


def magnitude_folds(*, scope: Literal["tensor", "model"], ranks: Any) -> tuple[Fold, Fold]:
    """Two folds whose state is the float32 pattern of each task's k-th largest magnitude, as int64 (task,).

    `ranks(entries, **parameters)` gives each task's k; a task with k = 0 keeps nothing (its pattern is above all).
    """

    def upper(block: Any, **_: Any) -> Any:
        from taskvec.ops.thresholds import upper_histogram

        return upper_histogram(block)

    def prefixes(total: Any, _: Any, entries: int, **parameters: Any) -> Any:
        from taskvec.ops.thresholds import descend

        return descend(total, ranks(entries, total.shape[0], **parameters))

    def lower(block: Any, *, state: Any, **_: Any) -> Any:
        from taskvec.ops.thresholds import lower_histogram

        return lower_histogram(block, state[:, 0])

    def patterns(total: Any, state: Any, entries: int, **_: Any) -> Any:
        from taskvec.ops.thresholds import descend

        return (state[:, 0] << 16) | descend(total, state[:, 1])[:, 0]

    return Fold(upper, prefixes, scope, counts=True), Fold(lower, patterns, scope, counts=True)
