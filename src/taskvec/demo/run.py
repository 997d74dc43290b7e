"""Fine-tune, extract, store, add, negate, write, evaluate: every step on real weights, every result on the disk.

demo/base/              the pre-trained model
demo/tuned/TASK/        eight fine-tuned models, ordinary Hugging Face folders
demo/library/           their task vectors: TASK (exact) and TASK_int8
demo/merged/            base + scale * (sum of the vectors), an ordinary Hugging Face folder
demo/report.md          what came out; results.json: the same as data
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from taskvec.bench.memo import Memo, key_of
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.demo.result import Column, DemoResult
from taskvec.engine.merge import merge
from taskvec.errors import TaskVecError
from taskvec.evaluate import Prepared, Score, Scores, deltas_of, prepare, resident, score, search_negation, search_scale
from taskvec.store import Store
from taskvec.suites import Head, Suite, Task, TextEncoder, docs8, heads_of
from taskvec.suites.encoder import folder_of
from taskvec.tune import Settings, tune
from taskvec.vector import TaskVector

Say = Callable[[str], None]
DOCS8_NEGATION = ("numpy_area", "which_library")  # what is forgotten, what must stay
SCALES = (0.2, 0.3, 0.4, 0.5, 0.7)
NEGATION_SCALES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
VALIDATION = 80  # texts a task on which scales are chosen


@final
@dataclass(slots=True)
class _Demo:
    """What the steps share."""

    folder: Path
    settings: Settings
    say: Say
    memo: Memo
    suite: Suite
    encoder: TextEncoder
    heads: Mapping[str, Head]
    base: Checkpoint
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and say what it is."""
        self.say(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 1)

    def data_key(self, split: str, tasks: tuple[str, ...]) -> dict[str, Any]:
        """What a score depends on besides the weights."""
        versions = {t: self.suite.task(t).version for t in tasks}
        return {"suite": self.suite.name, "libraries": dict(self.suite.versions), "tasks": versions, "split": split}


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
    demo = _open(folder, suite, settings or Settings(), say)
    target, control = negation
    with demo.step("fine-tuning"):
        tuned = {t.name: _tuned(demo, t) for t in demo.suite.tasks}
    with demo.step("extracting and storing task vectors"):
        store, restored = _library(demo, tuned)
    names = list(demo.suite.names())
    exact = {n: store[n] for n in names}
    with demo.step("evaluating"):
        base = _scores(demo, "the base", None, "test", tuple(names))
        single = _each(demo, exact, "test")
        validation = _each(demo, exact, "val")
        small = _each(demo, {n: store[f"{n}_int8"] for n in names}, "test")
    with demo.step("adding all task vectors"):
        scale = _best_scale(demo, merge("task_arithmetic", exact), validation)
        average = _scores(demo, "average", merge("average", exact), "test", tuple(names))
        merged = _merged(demo, merge("task_arithmetic", exact, scale=scale), tuple(names))
    with demo.step(f"negating {target}"):
        forget = _negation_scale(demo, exact[target], target, control)
        negated = _scores(demo, "negated", -forget * exact[target], "test", tuple(names))
    columns = (
        Column("zero-shot", base),
        Column("tuned", single),
        Column("int8", small),
        Column("average", average),
        Column(f"{scale:g}×sum", merged),
        Column(f"−{forget:g}×{target.removesuffix('_area')}", negated),
    )
    result = DemoResult(
        columns=columns,
        sizes=_sizes(store, demo.base),
        restored=restored,
        scale=scale,
        negation=(target, control, forget),
        settings=asdict(demo.settings),
        versions=dict(demo.suite.versions),
        seconds={**demo.seconds, "all": round(time.perf_counter() - started, 1)},
        suite=suite.name,
        base=Path(suite.base).name if suite.name != "docs8" else "all-MiniLM-L6-v2",
        folder=folder,
    )
    result.write()
    return result


def _open(folder: Path, suite: Suite, settings: Settings, say: Say) -> _Demo:
    target = folder / "base"
    if not target.exists():
        partial = folder / ".base.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder_of(suite.base), partial, symlinks=False)
        partial.rename(target)
    encoder = TextEncoder.open(target)
    heads = heads_of(suite, base=encoder)
    memo = Memo(folder / "cache")
    return _Demo(folder, settings, say, memo, suite, encoder, heads, Checkpoint.open(target))


def _tuned(demo: _Demo, task: Task) -> Checkpoint:
    """The fine-tuned model of a task; tuned again when anything it depends on has changed."""
    target = demo.folder / "tuned" / task.name
    key = {**demo.data_key("train", (task.name,)), "settings": asdict(demo.settings), "base": demo.base.fingerprint()}
    note = demo.folder / "cache" / f"tuned-{task.name}"
    if target.exists() and note.is_file() and note.read_text("utf-8") == key_of(key):
        return Checkpoint.open(target)
    shutil.rmtree(target, ignore_errors=True)
    demo.say(f"  {task.name}: {len(task.classes)} classes, {len(task.split('train'))} training texts")
    tune(demo.encoder, task, head=demo.heads[task.name], settings=demo.settings).save(target)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(key_of(key), "utf-8")
    return Checkpoint.open(target)


def _library(demo: _Demo, tuned: Mapping[str, Checkpoint]) -> tuple[Store, int]:
    """The store with two codecs a task, and how many tuned models the exact vectors restore bit for bit."""
    path = demo.folder / "library"
    try:
        store = Store.open(path, base=demo.base)
    except TaskVecError:
        shutil.rmtree(path, ignore_errors=True)
        store = Store.create(path, base=demo.base)
    restored = 0
    for name, checkpoint in tuned.items():
        fingerprint = checkpoint.fingerprint()
        known = name in store and (demo.base + store[name]).fingerprint() == fingerprint
        if not known:
            store.add(name, checkpoint - demo.base, force=True)
            store.add(f"{name}_int8", checkpoint - demo.base, codec="int8", force=True)
        restored += known or (demo.base + store[name]).fingerprint() == fingerprint
    return store, restored


def _prepared(demo: _Demo, split: str, tasks: tuple[str, ...]) -> Prepared:
    limit = VALIDATION if split == "val" else None
    return prepare(demo.encoder, demo.suite, split=split, limit=limit, tasks=tasks, heads=demo.heads)


def _rows(scores: Scores) -> list[dict[str, Any]]:
    return [asdict(row) for row in scores.rows]


def _from_rows(demo: _Demo, rows: list[dict[str, Any]], split: str) -> Scores:
    return Scores(rows=tuple(Score(**r) for r in rows), suite=demo.suite.name, split=split, regime="standard")


def _scores(demo: _Demo, label: str, vector: TaskVector | None, split: str, tasks: tuple[str, ...]) -> Scores:
    """Scores of base + vector, on one resident model; remembered by the fingerprint of its weights."""
    point = demo.base if vector is None else demo.base + vector
    key = {**demo.data_key(split, tasks), "weights": point.fingerprint(), "limit": VALIDATION if split == "val" else 0}

    def compute() -> list[dict[str, Any]]:
        demo.say(f"  {label} on {split}")
        with resident(demo.encoder.module, {} if vector is None else deltas_of(demo.encoder, vector)) as move:
            move(1.0)
            return _rows(score(demo.encoder, _prepared(demo, split, tasks), autocast=True))

    return _from_rows(demo, demo.memo(key, compute), split)


def _each(demo: _Demo, vectors: Mapping[str, TaskVector], split: str) -> Scores:
    """Each task's own vector on that task."""
    rows = [_scores(demo, name, v, split, (name,)).rows[0] for name, v in vectors.items()]
    return Scores(rows=tuple(rows), suite=demo.suite.name, split=split, regime="standard")


def _best_scale(demo: _Demo, summed: TaskVector, single: Scores) -> float:
    key = {
        **demo.data_key("val", demo.suite.names()),
        "weights": (demo.base + summed).fingerprint(),
        "search": SCALES,
        "single": _rows(single),
    }

    def compute() -> float:
        prepared = _prepared(demo, "val", demo.suite.names())
        deltas = deltas_of(demo.encoder, summed)
        return search_scale(demo.encoder, prepared, deltas, scales=SCALES, single=single, autocast=True).scale

    return float(demo.memo(key, compute))


def _negation_scale(demo: _Demo, vector: TaskVector, target: str, control: str) -> float:
    key = {
        **demo.data_key("val", (target, control)),
        "weights": (demo.base - vector).fingerprint(),
        "search": NEGATION_SCALES,
    }

    def compute() -> float:
        found = search_negation(
            demo.encoder,
            _prepared(demo, "val", (target, control)),
            deltas_of(demo.encoder, vector),
            target=target,
            control=control,
            scales=NEGATION_SCALES,
            autocast=True,
        )
        return found.scale

    return float(demo.memo(key, compute))


def _merged(demo: _Demo, vector: TaskVector, tasks: tuple[str, ...]) -> Scores:
    """Write base + vector as a model folder, and score what transformers loads from there."""
    target = demo.folder / "merged"
    point = demo.base + vector
    if not target.exists() or Checkpoint.open(target).fingerprint() != point.fingerprint():
        point.save(target, force=True)
    key = {**demo.data_key("test", tasks), "folder": point.fingerprint()}

    def compute() -> list[dict[str, Any]]:
        demo.say("  the merged model, loaded from its folder, on test")
        return _rows(score(TextEncoder.open(target), _prepared(demo, "test", tasks), autocast=True))

    return _from_rows(demo, demo.memo(key, compute), "test")


def _sizes(store: Store, base: Checkpoint) -> dict[str, float]:
    """Mean bytes of one task, by how it is stored."""
    table = {v.name: v for v in store.size().vectors}
    small = [v.bytes for n, v in table.items() if n.endswith("_int8")]
    exact = [v.bytes for n, v in table.items() if not n.endswith("_int8")]
    whole = sum(s.nbytes for s in base.specs.values())
    return {"checkpoint": whole, "exact": sum(exact) / len(exact), "int8": sum(small) / len(small)}
