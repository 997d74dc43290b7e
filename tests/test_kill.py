"""Kill -9 at random moments: the destination is absent or complete, a store valid, nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

import taskvec as tv
from vector_cases import normal, tree

KILLS = 60  # of each kind
TENSORS = 24
CODECS: dict[str, dict[str, object]] = {
    "dense": {},
    "int8": {},
    "int4": {},
    "sparse": {"density": 0.3},
    "tsv": {"density": 0.2},
}

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder in two shards, and fine-tunes of it; opened once, so that every loop below is compiled."""
    root = tmp_path_factory.mktemp("models")
    base = {f"layer.{i}.weight": normal(64, 96, seed=i).bfloat16() for i in range(TENSORS)}
    write(root / "base", base)
    for task in range(6):
        write(
            root / f"tuned{task}",
            {
                n: t + normal(64, 96, seed=1000 * (task + 1) + i, scale=0.01).bfloat16()
                for i, (n, t) in enumerate(base.items())
            },
        )
    warm(root)
    return root


def write(folder: Path, tensors: dict[str, object]) -> None:
    folder.mkdir()
    names = list(tensors)
    for i, half in enumerate((names[: TENSORS // 2], names[TENSORS // 2 :]), 1):
        file = folder / f"model-{i:05d}-of-00002.safetensors"
        safetensors.torch.save_file({n: tensors[n] for n in half}, file, metadata={"format": "pt"})  # type: ignore[misc]
    (folder / "config.json").write_text('{"model_type": "toy"}')


def warm(root: Path) -> None:
    model(root).save(root / "warm")
    store = tv.Store.create(root / "warm-store", base=tv.Checkpoint.open(root / "base"))
    for task, (codec, options) in enumerate(CODECS.items()):
        store.add(f"{task}", tv.Checkpoint.open(root / f"tuned{task}"), codec=codec, **options)
    store.verify()
    shutil.rmtree(root / "warm-store")
    shutil.rmtree(root / "warm")


def model(root: Path) -> tv.Checkpoint:
    base = tv.Checkpoint.open(root / "base")
    first, second = (tv.Checkpoint.open(root / f"tuned{i}") - base for i in (0, 1))
    return base + 0.7 * first - 0.3 * second


def vector(root: Path) -> tv.TaskVector:
    return tv.Checkpoint.open(root / "tuned0") - tv.Checkpoint.open(root / "base")


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Fork, run `work(pipe)` there; the child's id and the reading end of its pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    status = 1
    try:
        os.close(reading)
        work(writing)
        status = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def killed_after(work: Callable[[int], None], seconds: float) -> tuple[bool, bytes]:
    """Run `work` in a child, kill it after `seconds`; whether it had finished, and what it had said by then."""
    child, pipe = in_child(work)
    deadline, said = time.monotonic() + seconds, b""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            data = os.read(pipe, 4096)
            if not data:
                break
            said += data
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while data := os.read(pipe, 4096):
        said += data
    os.close(pipe)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status), said


class Moments:
    """Random moments over the time that the work takes, as far as that is known: it shrinks when work is resumed."""

    def __init__(self, work: Callable[[int], None], seed: int) -> None:
        self._rng = random.Random(seed)
        start = time.monotonic()
        assert killed_after(work, 60.0)[0]
        self._whole = time.monotonic() - start

    def kill(self, work: Callable[[int], None]) -> tuple[bool, bytes]:
        """Run `work` and kill it at a random moment; see `killed_after`."""
        moment, start = self._rng.uniform(0.0, self._whole), time.monotonic()
        finished, said = killed_after(work, moment)
        self._whole = 0.8 * self._whole + 0.2 * (time.monotonic() - start) if finished else 1.03 * self._whole
        return finished, said


def remove(path: Path) -> None:
    for victim in (path, path.parent / f".{path.name}.partial"):
        shutil.rmtree(victim, ignore_errors=True) if victim.is_dir() else victim.unlink(missing_ok=True)


def extract(codec: str) -> Callable[[Path, Path], object]:
    return lambda root, out: vector(root).save(out, codec=codec, threads=2, force=True, **CODECS[codec])


JOBS: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "apply": ("out", lambda root, out: model(root).save(out, threads=2, force=True)),
    **{f"extract {codec}": ("v.tv.safetensors", extract(codec)) for codec in CODECS},
}


def test_every_codec_is_killed() -> None:
    assert CODECS.keys() | {"lora"} == set(tv.codecs.names())  # lora stores adapters, not deltas of checkpoints


@pytest.mark.parametrize("job", JOBS)
def test_a_destination_is_absent_or_complete_after_every_kill_and_a_rerun_gives_the_same_bytes(
    models: Path, tmp_path: Path, job: str
) -> None:
    name, work = JOBS[job]
    out, root = tmp_path / name, tmp_path / f".{name}.partial"
    (tmp_path / "expected").mkdir()
    work(models, tmp_path / "expected" / name)
    expected = tree(tmp_path / "expected" / name)
    finished = resumed = 0

    def run(pipe: int) -> None:
        work(models, out)

    moments = Moments(run, 1)
    for i in range(KILLS):
        if i % 4 == 0:
            remove(out)  # else go on from what the killed ones left, up to a complete output that is replaced
        finished += moments.kill(run)[0]
        assert not os.path.lexists(out) or tree(out) == expected
        resumed += (root / "journal.jsonl").exists()
    work(models, out)
    assert tree(out) == expected
    assert not root.exists()
    assert 2 < finished < KILLS - 2
    assert resumed > 2


def content(store: tv.Store) -> dict[str, tuple[str, str]]:
    """What each vector of a store is: the fine-tune it was cut from, and its codec."""
    codecs = {v.name: v.codec for v in store.size().vectors}
    recipes = {name: store[name].single().recipe_of_origin for name in store}  # type: ignore[union-attr]
    return {name: (recipes[name]["terms"][0]["tuned"], codecs[name]) for name in store}


def three(round_: int) -> list[tuple[str, int, str]]:
    """What one child adds: (name, fine-tune, codec); names come again with other content."""
    codecs = list(CODECS)
    return [(f"task{(round_ + k) % 7}", (round_ + k) % 6, codecs[(round_ + 2 * k) % len(codecs)]) for k in range(3)]


def test_a_store_is_valid_after_every_kill_and_keeps_what_was_acknowledged(models: Path, tmp_path: Path) -> None:
    base = tv.Checkpoint.open(models / "base")
    tuned = [tv.Checkpoint.open(models / f"tuned{i}") for i in range(6)]
    store = tv.Store.create(tmp_path / "library", base=base)

    def adding(round_: int) -> Callable[[int], None]:
        def run(pipe: int) -> None:
            mine = tv.Store.open(store.path, base=base)
            for name, task, codec in three(round_):
                mine.add(name, tuned[task], codec=codec, force=True, threads=2, **CODECS[codec])
                os.write(pipe, f"{name}\n".encode())
            if "task0" in mine and round_ % 5 == 4:
                mine.remove("task0")
                os.write(pipe, b"removed\n")

        return run

    moments = Moments(adding(0), 2)
    cut_short, lost_nothing = 0, content(store)
    for round_ in range(1, KILLS + 1):
        finished, said = moments.kill(adding(round_))
        cut_short += not finished
        done = said.decode().split("\n")[:-1]
        check = store.verify()
        assert check.ok, check.problems
        now = content(store)
        wanted = {name: (f"tuned{task}", codec) for name, task, codec in three(round_)}
        for name in {*lost_nothing, *now} - ({"task0"} if round_ % 5 == 4 else set()):
            allowed = {wanted[name]} if name in done else {lost_nothing.get(name), wanted.get(name)}
            assert now.get(name) in allowed, name
        assert "removed" not in done or "task0" not in now
        lost_nothing = now
    assert 2 < cut_short < KILLS - 2
    finish(store, tuned)
    again = tv.Store.create(tmp_path / "again", base=base)
    finish(again, tuned)
    vectors, expected = ({p.name: p.read_bytes() for p in (s.path / "vectors").iterdir()} for s in (store, again))
    assert vectors == expected  # the same bytes, and no leftovers
    assert store.verify().ok


def finish(store: tv.Store, tuned: list[tv.Checkpoint]) -> None:
    for k, checkpoint in enumerate(tuned):
        store.add(f"task{k}", checkpoint, codec="int8", force=True)
    for name in set(store) - {f"task{k}" for k in range(6)}:
        store.remove(name)
