"""Fine-tune, extract, store, add, negate, write, evaluate: every step on real weights, every result on the disk.

demo/base/              the pre-trained model
demo/tuned/TASK/        eight fine-tuned models, ordinary Hugging Face folders
demo/library/           their task vectors: TASK (exact) and TASK_int8
demo/merged/            base + scale * (sum of the vectors), an ordinary Hugging Face folder
demo/report.html        what came out, to look at; report.md: the table; results.json: the same as data
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from taskvec.bench.memo import key_of
from taskvec.bench.run import about, record_of
from taskvec.bench.tuned import Tuned
from taskvec.bench.work import Say, Work, scores_from
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.demo.result import DemoResult, Row
from taskvec.demo.settings import WRITTEN, demo_settings
from taskvec.engine.merge import merge
from taskvec.errors import TaskVecError
from taskvec.evaluate import Score, Scores, deltas_of, line, score
from taskvec.store import Store
from taskvec.suites import Suite, Task, TextEncoder, docs8
from taskvec.suites.encoder import folder_of
from taskvec.tune import Settings, tune
from taskvec.vector import TaskVector

DOCS8_NEGATION = ("numpy_area", "which_library")  # what is forgotten, what must stay


@final
@dataclass(slots=True)
class _Demo:
    """What the steps share."""

    work: Work
    settings: Settings
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and say what it is."""
        self.work.say(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 1)


def run_demo(
    folder: Path,
    *,
    suite: Suite | None = None,
    negation: tuple[str, str] = DOCS8_NEGATION,
    settings: Settings | None = None,
    say: Say = print,
) -> DemoResult:
    """Run every step that has not been run before in `folder`, and write the report.

    Args:
        folder: where everything goes; made if it is not there.
        suite: base model and tasks; default: docs8.
        negation: the task to forget, and the control whose accuracy must stay.
        settings: of the fine-tuning; default: 45 steps a task.
        say: called with a line when a step begins.

    Returns:
        The table of scores, the sizes, and where the report is.

    Raises:
        TaskVecError: a step refused; what is done stays.
    """
    started = time.perf_counter()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if suite is None:
        say("reading the docstrings of the installed libraries")
        suite = docs8()
    named, (target, control) = suite.name, negation
    demo = _open(folder, replace(suite, controls=(suite.task(control),)), target, settings or Settings(), say)
    with demo.step("fine-tuning"):
        tuned = {t.name: _tuned(demo, t) for t in suite.tasks}
    with demo.step("extracting and storing task vectors"):
        store, restored = _library(demo, tuned)
    with demo.step("evaluating"):
        exact = {n: store[n] for n in suite.names()}
        keys = {n: tuned[n].fingerprint() for n in exact}
        record = record_of(demo.work, Tuned(demo.settings.seed, exact, keys))
    with demo.step("writing and reading a merged model"):
        rows = _rows(demo, record, exact)
    merges = record["addition"]["addition"]
    (forgotten,) = record["negation"]["negation"]
    result = DemoResult(
        rows=tuple(rows),
        sizes=_sizes(store, demo.work.base),
        restored=restored,
        scales={row["name"]: row["scale"] for row in merges},
        negation=(target, control, forgotten["scale"]),
        settings=asdict(demo.settings),
        versions=dict(suite.versions),
        seconds={**demo.seconds, "all": round(time.perf_counter() - started, 1)},
        suite=named,
        base=Path(suite.base).name if named != "docs8" else "all-MiniLM-L6-v2",
        folder=folder,
        record={"suite": about(demo.work), **record},
    )
    result.write()
    return result


def _open(folder: Path, suite: Suite, target: str, settings: Settings, say: Say) -> _Demo:
    base = folder / "base"
    if not base.exists():
        partial = folder / ".base.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder_of(suite.base), partial, symlinks=False)
        partial.rename(base)
    chosen = demo_settings(settings, target=target)
    work = Work.open(replace(suite, base=str(base)), folder, chosen, say=say, progress=lambda task, step: None)
    return _Demo(work, settings)


def _tuned(demo: _Demo, task: Task) -> Checkpoint:
    """The fine-tuned model of a task; tuned again when anything it depends on has changed."""
    work = demo.work
    target, note = work.folder / "tuned" / task.name, work.folder / "cache" / f"tuned-{task.name}"
    key = key_of({**work.about([task.name]), "settings": asdict(demo.settings)})
    if target.exists() and note.is_file() and note.read_text("utf-8") == key:
        return Checkpoint.open(target)
    shutil.rmtree(target, ignore_errors=True)
    work.say(f"  {task.name}: {len(task.classes)} classes, {len(task.split('train'))} training texts")
    tune(work.encoder, task, head=work.heads[task.name], settings=demo.settings).save(target)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(key, "utf-8")
    return Checkpoint.open(target)


def _library(demo: _Demo, tuned: Mapping[str, Checkpoint]) -> tuple[Store, int]:
    """The store with two codecs a task, and how many tuned models the exact vectors restore bit for bit."""
    base = demo.work.base
    path = demo.work.folder / "library"
    try:
        store = Store.open(path, base=base)
    except TaskVecError:
        shutil.rmtree(path, ignore_errors=True)
        store = Store.create(path, base=base)
    restored = 0
    for name, checkpoint in tuned.items():
        fingerprint = checkpoint.fingerprint()
        known = name in store and (base + store[name]).fingerprint() == fingerprint
        if not known:
            store.add(name, checkpoint - base, force=True)
            store.add(f"{name}_int8", checkpoint - base, codec="int8", force=True)
        restored += known or (base + store[name]).fingerprint() == fingerprint
    return store, restored


def _rows(demo: _Demo, record: Mapping[str, Any], exact: Mapping[str, TaskVector]) -> list[Row]:
    """The table: one model for each task, then one model for all tasks, then one that forgets."""
    (int8, *_) = record["compression"]["compression"]
    rows = [
        Row("zero-shot", scores_from(record["zero_shot"])),
        Row("fine-tuned", scores_from(record["tuned"])),
        Row("int8", _on_test(demo, int8["tasks"])),
    ]
    for each in record["addition"]["addition"]:
        name, scale = each["name"], each["scale"]
        scores = _on_test(demo, each["tasks"])
        if name == WRITTEN:
            scores = _written(demo, scale * merge(name, exact))
        rows.append(Row(name if scale == 1.0 else f"{scale:g} × {name}", scores))
    (forgotten,) = record["negation"]["negation"]
    target, scale = forgotten["target"], forgotten["scale"]
    return [*rows, Row(f"−{scale:g} × {target}", _moved(demo, target, exact[target], -scale))]


def _on_test(demo: _Demo, tasks: list[dict[str, Any]]) -> Scores:
    rows = tuple(Score(**each) for each in tasks)
    return Scores(rows=rows, suite=demo.work.suite.name, split="test", regime="standard")


def _moved(demo: _Demo, name: str, vector: TaskVector, scale: float) -> Scores:
    """Scores of base + scale × vector on all tasks."""
    work, tasks = demo.work, demo.work.suite.names()

    def compute() -> dict[str, Any]:
        with line(work.encoder, work.test(tasks), deltas_of(work.encoder, vector), autocast=True) as at:
            return at(scale).plain()

    parts = {**work.about(tasks), "weights": (work.base + vector).fingerprint(), "scale": scale}
    return scores_from(work.piece(f"{scale:g} × {name} on all tasks", parts, compute))


def _written(demo: _Demo, vector: TaskVector) -> Scores:
    """Write base + vector as a model folder, and score what transformers loads from there."""
    work, tasks = demo.work, demo.work.suite.names()
    target, point = work.folder / "merged", demo.work.base + vector
    if not target.exists() or Checkpoint.open(target).fingerprint() != point.fingerprint():
        point.save(target, force=True)

    def compute() -> dict[str, Any]:
        return score(TextEncoder.open(target), work.test(tasks), autocast=True).plain()

    parts = {**work.about(tasks), "folder": point.fingerprint()}
    return scores_from(work.piece("the merged model, loaded from its folder", parts, compute))


def _sizes(store: Store, base: Checkpoint) -> dict[str, float]:
    """Mean bytes of one task, by how it is stored."""
    table = {v.name: v for v in store.size().vectors}
    small = [v.bytes for n, v in table.items() if n.endswith("_int8")]
    exact = [v.bytes for n, v in table.items() if not n.endswith("_int8")]
    whole = sum(s.nbytes for s in base.specs.values())
    return {"checkpoint": whole, "exact": sum(exact) / len(exact), "int8": sum(small) / len(small)}
