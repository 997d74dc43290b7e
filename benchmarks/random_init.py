"""Does task arithmetic arise in pre-training? The same protocols on a pre-trained and on a random encoder.

The random encoder has the architecture and the tokenizer of the pre-trained one, its own heads and its own fine-tuning,
at the suite's learning rate and at a higher one, as it may hardly move at the suite's. For each pair of tasks of
`text8`: each task's own accuracy, that of the sum of both vectors at the scale that validation chooses, and the
disentanglement error, of the model itself and of it to first order. Local energy: `tangent_kernel.py`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import _measure
import _suite
import taskvec as tv
from taskvec.evaluate import Prepared, addition, disentanglement, own_scores, prepare, score
from taskvec.suites import Head, Suite, Task, TextEncoder, heads_of
from taskvec.tune import Settings, tune

PAIRS = (("sst2", "subj"), ("trec6", "ag_news"))
TASKS = tuple(itertools.chain(*PAIRS))
SCALES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
GRID = (-2.0, -1.0, 0.0, 1.0, 2.0)


def main() -> None:
    """Tune, measure, write `random_init.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=256, help="test texts of each task")
    parser.add_argument("--validation", type=int, default=100, help="validation texts of each task")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-5, 5e-4], help="of the random encoder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, whole = time.perf_counter(), _suite.SUITES["text8"]()
    suite = replace(whole, tasks=tuple(whole.task(name) for name in TASKS))
    pretrained = TextEncoder.open(suite.base)
    drawn = _suite.random_encoder(pretrained, options.seed)
    models = [("pre-trained", pretrained, _suite.RATES["text8", "standard"])]
    models += [("random", drawn, rate) for rate in options.rates]
    rows: list[dict[str, Any]] = []
    for label, encoder, rate in models:
        settings = Settings(steps=options.steps, seed=options.seed, learning_rate=rate)
        rows += measured(label, encoder, suite, settings, options)
        what = {**vars(options), "suite": suite.name, "settings": asdict(settings), "scales": SCALES, "grid": GRID}
        seconds = round(time.perf_counter() - started, 1)
        _measure.write("random_init", {"what": what, "rows": rows, "seconds": seconds})


def measured(
    label: str, encoder: TextEncoder, suite: Suite, settings: Settings, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row a pair."""
    heads = heads_of(suite, base=encoder)
    folder = _measure.WORK / "random-init" / f"{label}-{settings.learning_rate:g}-{settings.steps}-seed{settings.seed}"
    vectors = {task.name: _vector(encoder, task, heads[task.name], settings, folder) for task in suite.tasks}
    rows = []
    for pair in PAIRS:
        own = {name: vectors[name] for name in pair}
        val = prepare(encoder, suite, split="val", limit=options.validation, tasks=pair, heads=heads)
        test = prepare(encoder, suite, split="test", limit=options.texts, tasks=pair, heads=heads)
        row = {"model": label, "rate": settings.learning_rate, "pair": pair, **_row(encoder, own, val, test)}
        rows.append(row)
        told = ", ".join(f"{k} {v:.3f}" for k, v in row.items() if isinstance(v, float))
        print(f"{label} {' + '.join(pair)}: {told}", flush=True)
    return rows


def _vector(encoder: TextEncoder, task: Task, head: Head, settings: Settings, folder: Path) -> tv.TaskVector:
    """Fine-tuned once, with the suite's own loop, and kept."""
    target = folder / f"{task.name}.tv.safetensors"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{folder.name}: {task.name}", flush=True)
        tune(encoder, task, head=head, settings=settings).vector().save(target)
    return tv.TaskVector.open(target)


def _row(encoder: TextEncoder, vectors: Mapping[str, tv.TaskVector], val: Prepared, test: Prepared) -> dict[str, Any]:
    before = score(encoder, test, autocast=True)
    single = [own_scores(encoder, vectors, inputs, regime="standard", autocast=True) for inputs in (val, test)]
    merged = {"sum": tv.merge("task_arithmetic", vectors)}
    (added,) = addition(
        encoder,
        merged,
        validation=val,
        test=test,
        single_validation=single[0],
        single_test=single[1],
        scales=SCALES,
        autocast=True,
    ).rows
    maps = {
        "standard": disentanglement(encoder, vectors, test, GRID, autocast=True),
        "linear": disentanglement(encoder, vectors, test, GRID, regime="linear"),
    }
    gain = single[1].mean - before.mean
    errors = {f"error_{k}_mean": found.mean for k, found in maps.items()}
    errors |= {f"error_{k}_at_one": found.error(1.0, 1.0) for k, found in maps.items()}
    return {
        "zero_shot": before.mean,
        "tuned": single[1].mean,
        "sum": added.scores.mean,
        "sum_at_one": added.at_one.mean,
        "kept": (added.scores.mean - before.mean) / gain if gain else None,
        "scale": added.scale,
        "norm": sum(vector.norm() for vector in vectors.values()) / len(vectors),
        **errors,
        "tasks": {name: [before[name].value, single[1][name].value, added.scores[name].value] for name in vectors},
    }


if __name__ == "__main__":
    main()
