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
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from taskvec.bench.memo import Memo, key_of
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.demo.merges import WRITTEN, Merge, merges
from taskvec.demo.result import DemoResult, Row
from taskvec.demo.state import Demo, Say, to_rows
from taskvec.errors import TaskVecError
from taskvec.evaluate import Scores, deltas_of, score, search_negation
from taskvec.store import Store
from taskvec.suites import Suite, Task, TextEncoder, docs8, heads_of
from taskvec.suites.encoder import folder_of
from taskvec.tune import Settings, tune
from taskvec.vector import TaskVector

DOCS8_NEGATION = ("numpy_area", "which_library")  # what is forgotten, what must stay
NEGATION_SCALES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)


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
    exact = {n: store[n] for n in demo.suite.names()}
    with demo.step("evaluating the base and the fine-tuned models"):
        rows = [
            Row("zero-shot", demo.scores("the base", None)),
            Row("fine-tuned", demo.each(exact, "test")),
            Row("int8", demo.each({n: store[f"{n}_int8"] for n in exact}, "test")),
        ]
        validation = demo.each(exact, "val")
    with demo.step("merging all task vectors"):
        merged = merges(demo, exact, validation)
        rows += [Row(m.title, _scores_of(demo, m)) for m in merged]
    with demo.step(f"negating {target}"):
        forget = _negation_scale(demo, exact[target], target, control)
        rows.append(Row(f"−{forget:g} × {target}", demo.scores("negated", exact[target], scale=-forget)))
    result = DemoResult(
        rows=tuple(rows),
        sizes=_sizes(store, demo.base),
        restored=restored,
        scales={m.method: m.scale for m in merged},
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


def _open(folder: Path, suite: Suite, settings: Settings, say: Say) -> Demo:
    target = folder / "base"
    if not target.exists():
        partial = folder / ".base.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(folder_of(suite.base), partial, symlinks=False)
        partial.rename(target)
    encoder = TextEncoder.open(target)
    heads = heads_of(suite, base=encoder)
    memo = Memo(folder / "cache")
    return Demo(folder, settings, say, memo, suite, encoder, heads, Checkpoint.open(target))


def _tuned(demo: Demo, task: Task) -> Checkpoint:
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


def _library(demo: Demo, tuned: Mapping[str, Checkpoint]) -> tuple[Store, int]:
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


def _scores_of(demo: Demo, merged: Merge) -> Scores:
    if merged.method == WRITTEN:
        return _written(demo, merged.scale * merged.vector)
    return demo.scores(merged.title, merged.vector, scale=merged.scale)


def _written(demo: Demo, vector: TaskVector) -> Scores:
    """Write base + vector as a model folder, and score what transformers loads from there."""
    target, tasks = demo.folder / "merged", demo.suite.names()
    point = demo.base + vector
    if not target.exists() or Checkpoint.open(target).fingerprint() != point.fingerprint():
        point.save(target, force=True)
    key = {**demo.data_key("test", tasks), "folder": point.fingerprint()}

    def compute() -> list[dict[str, Any]]:
        demo.say("  the merged model, loaded from its folder, on test")
        return to_rows(score(TextEncoder.open(target), demo.prepared("test", tasks), autocast=True))

    return demo.from_rows(demo.memo(key, compute), "test")


def _negation_scale(demo: Demo, vector: TaskVector, target: str, control: str) -> float:
    key = {
        **demo.data_key("val", (target, control)),
        "weights": (demo.base - vector).fingerprint(),
        "search": NEGATION_SCALES,
    }

    def compute() -> float:
        found = search_negation(
            demo.encoder,
            demo.prepared("val", (target, control)),
            deltas_of(demo.encoder, vector),
            target=target,
            control=control,
            scales=NEGATION_SCALES,
            autocast=True,
        )
        return found.scale

    return float(demo.memo(key, compute))


def _sizes(store: Store, base: Checkpoint) -> dict[str, float]:
    """Mean bytes of one task, by how it is stored."""
    table = {v.name: v for v in store.size().vectors}
    small = [v.bytes for n, v in table.items() if n.endswith("_int8")]
    exact = [v.bytes for n, v in table.items() if not n.endswith("_int8")]
    whole = sum(s.nbytes for s in base.specs.values())
    return {"checkpoint": whole, "exact": sum(exact) / len(exact), "int8": sum(small) / len(small)}
