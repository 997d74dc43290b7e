"""Folds: a statistic of every block, added up in one fixed order, on several threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from taskvec.delta import BLOCK
from taskvec.methods._method import Fold

if TYPE_CHECKING:
    from taskvec.engine.merging import Merging

States = Mapping[str | None, Any]  # by tensor, or under None for the whole model
_RUN = 16  # blocks a job


def run_fold(merging: Merging, fold: Fold, before: States, *, threads: int | None) -> dict[str | None, Any]:
    """One fold over every block of every tensor; returns its state, a tensor or under None for the model.

    Counts are taken of a whole job at once; other statistics one block at a time and added in the order of the
    blocks, so that the result depends neither on threads nor on how blocks are grouped into jobs.
    """
    totals: dict[str | None, Any] = {}
    entries: dict[str | None, int] = {}
    fixed = merging.bound.whole(merging.method.name) if fold.scope == "model" else {}
    for name, spec in merging.specs.items():
        key = name if fold.scope == "tensor" else None
        entries[key] = entries.get(key, 0) + spec.numel
    for key, statistics in _ordered(merging, fold, before, threads or os.cpu_count() or 1):
        for statistic in statistics:
            totals[key] = totals[key] + statistic if key in totals else statistic
    return {
        key: fold.finish(
            total,
            before.get(key, before.get(None)),
            entries[key],
            **(fixed if key is None else merging.bound.at(key)),
        )
        for key, total in totals.items()
    }


def _ordered(merging: Merging, fold: Fold, before: States, threads: int) -> Iterator[tuple[str | None, list[Any]]]:
    """The statistics of every job, in the order of the jobs; at most a few jobs are under way."""

    def job(name: str, start: int, stop: int) -> list[Any]:
        state, bound = before.get(name, before.get(None)), merging.bound.at(name)
        size = _RUN * BLOCK if fold.counts else BLOCK
        found: list[Any] = []
        for at in range(start, stop, size):
            block = merging.stack(name, at, min(at + size, stop))
            found.append(fold.step(block, at=merging.place(name, at), state=state, **bound))
        return found

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[str | None, Future[list[Any]]]] = deque()
        try:
            for name, spec in merging.specs.items():
                key = name if fold.scope == "tensor" else None
                for start in range(0, spec.numel, _RUN * BLOCK):
                    stop = min(start + _RUN * BLOCK, spec.numel)
                    waiting.append((key, pool.submit(job, name, start, stop)))
                    if len(waiting) > 2 * threads:
                        done, future = waiting.popleft()
                        yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
