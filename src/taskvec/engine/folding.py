"""Folds: a statistic of every block, added up in one fixed order, wherever the blocks are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, final

from taskvec.delta import BLOCK
from taskvec.engine.runner import Runner
from taskvec.methods._method import Fold
from taskvec.ops.threads import one_thread

if TYPE_CHECKING:
    from taskvec.engine.merging import Merging

States = Mapping[str | None, Any]  # by tensor, or under None for the whole model
_RUN = 16  # blocks a job


@final
@dataclass(frozen=True, slots=True)
class FoldJob:
    """Entries [start, stop) of a tensor, in blocks of `size`; what is found belongs to `key` in the states."""

    key: str | None
    name: str
    start: int
    stop: int
    size: int


def run_fold(
    merging: Merging, fold: Fold, before: States, *, runner: Runner, done: Callable[[FoldJob], None]
) -> dict[str | None, Any]:
    """One fold over every block of every tensor; returns its state, a tensor or under None for the model.

    Counts are taken of a whole job at once; other statistics one block at a time and added in the order of the
    blocks, so that the result depends neither on the runner nor on how blocks are grouped into jobs. `done` is called
    with every job, in order, when its statistics are in.
    """
    entries: dict[str | None, int] = {}
    for name, spec in merging.specs.items():
        key = name if fold.scope == "tensor" else None
        entries[key] = entries.get(key, 0) + spec.numel
    fixed = merging.bound.whole(merging.method.name) if fold.scope == "model" else {}

    def statistics(job: FoldJob) -> tuple[FoldJob, list[Any]]:
        return job, list(_statistics(merging, fold, before, job))

    def finish(key: str | None, total: Any) -> Any:
        bound = fixed if key is None else merging.bound.at(key)
        with _alone(fold):
            return fold.finish(total, before.get(key, before.get(None)), entries[key], **bound)

    states: dict[str | None, Any] = {}
    for key, jobs in groupby(runner.map(statistics, _jobs(merging, fold)), key=lambda result: result[0].key):
        total = None
        for job, found in jobs:
            for statistic in found:
                total = statistic if total is None else total + statistic
            done(job)
        states[key] = finish(key, total)
    return states


def _jobs(merging: Merging, fold: Fold) -> Iterator[FoldJob]:
    for name, spec in merging.specs.items():
        key = name if fold.scope == "tensor" else None
        size, run = _sizes(fold, spec.shape, spec.numel) if spec.numel else (1, 1)
        for start in range(0, spec.numel, run):
            yield FoldJob(key, name, start, min(start + run, spec.numel), size)


def _sizes(fold: Fold, shape: tuple[int, ...], entries: int) -> tuple[int, int]:
    """How many entries a block has, and a job; blocks of a fold on rows hold whole slices of the first axis."""
    row = 1 if fold.acts_on == "element" else entries // shape[0] if len(shape) > 1 else entries
    block = max(1, BLOCK // row) * row
    job = max(1, _RUN * BLOCK // block) * block
    return (job if fold.counts else block), job


def _alone(fold: Fold) -> contextlib.AbstractContextManager[None]:
    """What a step runs in: nothing is to be kept on one thread for compiled loops, nor for counts."""
    return contextlib.nullcontext() if fold.compiled or fold.counts else one_thread()


def _statistics(merging: Merging, fold: Fold, before: States, job: FoldJob) -> Iterator[Any]:
    state, bound = before.get(job.name, before.get(None)), merging.bound.at(job.name)
    for at in range(job.start, job.stop, job.size):
        block, base = merging.parts(merging.stack(job.name, at, min(at + job.size, job.stop)))
        with _alone(fold):
            found = fold.step(block, at=merging.place(job.name, at), state=state, **base, **bound)
        yield found
