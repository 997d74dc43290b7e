"""How the engine runs what methods declare: jobs in order, statistics with progress, whole tensors once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import taskvec as tv
from merge_cases import model_folders
from taskvec.engine.merge import Merged
from taskvec.engine.runner import LocalRunner
from taskvec.errors import DestinationError, NonFiniteError, ParameterError
from taskvec.methods import _method, merge_method


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    model_folders(root)
    return root


# --- runner -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3, None])
def test_results_come_in_the_order_of_the_jobs(threads: int | None) -> None:
    waits = [threading.Event() for _ in range(40)]

    def work(job: int) -> int:
        if threads == 3 and job % 3 == 0:
            assert waits[job].wait(10)  # set by a later job
        elif job % 3 == 1:
            waits[job - 1].set()
        return job * job

    jobs = range(39) if threads == 3 else range(40)
    assert list(LocalRunner(threads).map(work, jobs)) == [job * job for job in jobs]


def test_jobs_are_taken_a_few_ahead_of_the_results() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(1000):
            taken.append(job)
            yield job

    results = LocalRunner(2).map(lambda job: job, jobs())
    assert next(results) == 0
    assert len(taken) <= 5
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 5


def test_the_first_failure_ends_the_run() -> None:
    begun: list[int] = []

    def work(job: int) -> int:
        begun.append(job)
        if job == 3:
            raise ParameterError("job 3 cannot be done.")
        return job

    seen: list[int] = []
    with pytest.raises(ParameterError, match="job 3 cannot be done"):
        seen.extend(LocalRunner(1).map(work, range(1000)))
    assert (len(begun) < 10, len(seen) <= 3) == (True, True)


@pytest.mark.parametrize("threads", [0, -1, True, 1.5])
def test_a_number_of_threads_that_is_none_is_refused(threads: Any, models: Path) -> None:
    base = tv.Checkpoint.open(models / "base")
    with pytest.raises(ParameterError, match=f"threads={threads!r} is not a positive number"):
        tv.merge("average", [tv.Checkpoint.open(models / "math") - base], threads=threads)


# --- progress ---------------------------------------------------------------------------------------------------------


def steps_of(work: Any, out: Path) -> list[tuple[str, int, int]]:
    seen: list[tuple[str, int, int]] = []
    work.save(out, threads=2, progress=lambda *step: seen.append(step))
    return seen


@pytest.mark.parametrize("kind", ["vector", "point", "vector file", "merge of merges"])
def test_progress_names_every_pass_and_counts_its_bytes(kind: str, models: Path, tmp_path: Path) -> None:
    base, math, code = (tv.Checkpoint.open(models / name) for name in ("base", "math", "code"))
    moving = sum(s.nbytes for s in base.specs.values() if s.dtype.moves)
    whole = sum(s.nbytes for s in base.specs.values())
    merged = tv.merge("ties", [math - base, code - base])
    work: Any = {
        "vector": base + merged,
        "point": tv.merge("slerp", [math, code], t=0.25),
        "vector file": merged,
        "merge of merges": tv.merge("slerp", [base + merged, code], t=0.25),
    }[kind]
    two = [("reading for statistics (1 of 2)", 2 * moving), ("reading for statistics (2 of 2)", 2 * moving)]
    one = [("reading for statistics (1 of 1)", 2 * moving)]
    wanted = {"vector": two, "point": one, "vector file": two, "merge of merges": [*two, *one]}[kind]
    wanted = [*wanted, ("writing", moving if kind == "vector file" else whole)]
    out = tmp_path / ("v.tv.safetensors" if kind == "vector file" else "out")
    seen = steps_of(work, out)
    assert list(dict.fromkeys((step, total) for step, _, total in seen)) == wanted
    for step, total in wanted:
        done = [d for s, d, _ in seen if s == step]
        assert done == sorted(done)
        assert done[-1] == total


def test_what_a_statistic_refuses_is_refused_before_anything_is_written(models: Path, tmp_path: Path) -> None:
    bad = tv.Checkpoint.open(models / "math")
    tensors = {name: bad[name] for name in bad.names()}
    tensors["model.norm.weight"][3] = torch.nan
    points = [tv.Checkpoint.from_tensors(tensors), tv.Checkpoint.open(models / "code")]
    seen: list[str] = []
    with pytest.raises(NonFiniteError, match=r"'model\.norm\.weight' has NaN or Inf in '0'"):
        tv.merge("slerp", points, t=0.5).save(tmp_path / "out", progress=lambda step, *_: seen.append(step))
    assert "writing" not in seen
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["base", "math.tv.safetensors", "nowhere/out"])
def test_a_destination_that_cannot_be_is_refused_before_anything_is_read(name: str, models: Path) -> None:
    base = tv.Checkpoint.open(models / "base")
    merged = tv.merge("ties", [tv.Checkpoint.open(models / "math") - base])
    work: Any = merged if name.endswith("tv.safetensors") else base + merged
    seen: list[str] = []
    with pytest.raises(DestinationError, match=r"exists already|does not exist"):
        work.save(models / name, progress=lambda step, *_: seen.append(step))
    assert seen == []


# --- whole tensors ----------------------------------------------------------------------------------------------------

SHAPE = (300, 400)  # more entries than a block
CALLS: list[str] = []
FAILURES: list[str] = []


@merge_method(source="a test", acts_on="matrix", otherwise="average")
def counting_test(deltas: Float[Tensor, task * shape], *, at: Any) -> Float[Tensor, "*shape"]:
    """The sum, slowly; fails once for every entry of FAILURES."""
    CALLS.append(at.tensor)
    time.sleep(0.05)
    if FAILURES:
        raise ParameterError(FAILURES.pop())
    return deltas.sum(0)


del _method._methods["counting_test"]  # it is no method of ours


def counted() -> tuple[tv.TaskVector, Merged, dict[str, torch.Tensor]]:
    """A merge by `counting_test`, its leaf, and what it has to give."""
    CALLS.clear()
    first = {name: torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("ab")}
    second = {name: torch.randn(SHAPE, generator=torch.Generator().manual_seed(9 + i)) for i, name in enumerate("ab")}
    merged = tv.merge(counting_test, [tv.TaskVector.from_tensors(first), tv.TaskVector.from_tensors(second)])
    leaf = merged.single()
    assert isinstance(leaf, Merged)
    return merged, leaf, {name: first[name] + second[name] for name in "ab"}


def test_a_whole_tensor_is_computed_once_for_all_threads_that_read_ranges_of_it() -> None:
    merged, leaf, wanted = counted()
    ranges = [(name, at, min(at + 9_000, 120_000)) for at in range(0, 120_000, 9_000) for name in "ab"]
    begin = threading.Barrier(4)

    def read(worker: int) -> list[tuple[str, int, int, Any]]:
        begin.wait(10)
        return [(*where, merged.values(*where)) for where in ranges[worker::4]]

    with ThreadPoolExecutor(4) as pool:
        found = [one for part in pool.map(read, range(4)) for one in part]
    assert sorted(CALLS) == ["a", "b"]
    for name, start, stop, values in found:
        assert torch.equal(torch.from_numpy(values).float(), wanted[name].flatten()[start:stop])
    assert leaf.merging._blocks == {}


def test_a_whole_tensor_that_fails_is_computed_again_for_the_next_reader() -> None:
    merged, leaf, wanted = counted()
    FAILURES.append("once")
    with pytest.raises(ParameterError, match="once"):
        merged.values("a", 0, 60_000)
    for _ in range(2):
        assert torch.equal(merged["a"], wanted["a"])
    assert CALLS == ["a", "a", "a"]
    assert leaf.merging._blocks == {}
