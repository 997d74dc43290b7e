"""Folds: a statistic of every block, added up in one fixed order, on several threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from taskvec.delta import BLOCK
from taskvec.methods._method import Fold
from taskvec.ops.threads import one_thread

if TYPE_CHECKING:
    from taskvec.engine.merging import Merging

States = Mapping[str | None, Any]  # by tensor, or under None for the whole model
_RUN = 16  # blocks a job


def run_fold(merging: Merging, fold: Fold, before: States, *, threads: int | None) -> dict[str | None, Any]:
    """One fold over every block of every tensor; returns its state, a tensor or under None for the model.

    Counts are taken of a whole job at once; other statistics one block at a time and added in the order of the
    blocks, so that the result depends neither on threads nor on how blocks are grouped into jobs.
    """
    entries: dict[str | None, int] = {}
    for name, spec in merging.specs.items():
        key = name if fold.scope == "tensor" else None
        entries[key] = entries.get(key, 0) + spec.numel
    fixed = merging.bound.whole(merging.method.name) if fold.scope == "model" else {}

    def finish(key: str | None, total: Any) -> Any:
        bound = fixed if key is None else merging.bound.at(key)
        with one_thread():
            return fold.finish(total, before.get(key, before.get(None)), entries[key], **bound)

    states: dict[str | None, Any] = {}
    statistics = _ordered(merging, fold, before, threads or os.cpu_count() or 1)
    for key, jobs in groupby(statistics, key=itemgetter(0)):
        total = None
        for _, found in jobs:
            for statistic in found:
                total = statistic if total is None else total + statistic
        states[key] = finish(key, total)
    return states


def _sizes(fold: Fold, shape: tuple[int, ...], entries: int) -> tuple[int, int]:
    """How many entries a block has, and a job; blocks of a fold on rows hold whole slices of the first axis."""
    row = 1 if fold.acts_on == "element" else entries // shape[0] if len(shape) > 1 else entries
    block = max(1, BLOCK // row) * row
    job = max(1, _RUN * BLOCK // block) * block
    return (job if fold.counts else block), job


def _ordered(merging: Merging, fold: Fold, before: States, threads: int) -> Iterator[tuple[str | None, list[Any]]]:
    """The statistics of every job, in the order of the jobs; at most a few jobs are under way."""

    def job(name: str, start: int, stop: int, size: int) -> list[Any]:
        state, bound = before.get(name, before.get(None)), merging.bound.at(name)
        found: list[Any] = []
        for at in range(start, stop, size):
            block, base = merging.parts(merging.stack(name, at, min(at + size, stop)))
            with one_thread():
                found.append(fold.step(block, at=merging.place(name, at), state=state, **base, **bound))
        return found

    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[str | None, Future[list[Any]]]] = deque()
        try:
            for name, spec in merging.specs.items():
                key = name if fold.scope == "tensor" else None
                size, run = _sizes(fold, spec.shape, spec.numel) if spec.numel else (1, 1)
                for start in range(0, spec.numel, run):
                    stop = min(start + run, spec.numel)
                    waiting.append((key, pool.submit(job, name, start, stop, size)))
                    if len(waiting) > 2 * threads:
                        done, future = waiting.popleft()
                        yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
