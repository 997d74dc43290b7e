"""A suite fine-tuned once and kept: what the benchmarks on real task vectors share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import _measure
import taskvec as tv
from taskvec.evaluate import Prepared, prepare
from taskvec.suites import Head, Suite, TextEncoder, docs8, heads_of
from taskvec.suites.encoder import folder_of
from taskvec.tune import Settings, tune

SUITES = {"docs8": docs8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The base, its fine-tunes and their task vectors, and the inputs on which they are scored."""

    suite: Suite
    encoder: TextEncoder
    heads: Mapping[str, Head]
    base: tv.Checkpoint
    vectors: Mapping[str, tv.TaskVector]
    settings: Settings
    folder: Path

    def inputs(self, split: str, *, limit: int | None = None) -> Prepared:
        """All tasks' inputs of a split."""
        return prepare(self.encoder, self.suite, split=split, limit=limit, heads=self.heads)

    def about(self) -> dict[str, object]:
        """What the numbers depend on."""
        return {"suite": self.suite.name, "libraries": dict(self.suite.versions), "settings": asdict(self.settings)}


def fine_tuned(name: str, *, steps: int, seed: int = 0) -> Tuned:
    """The suite's eight fine-tunes at so many steps; what an earlier run made is used again."""
    suite, settings = SUITES[name](), Settings(steps=steps, seed=seed)
    source = folder_of(suite.base)
    encoder, base = TextEncoder.open(source), tv.Checkpoint.open(source)
    heads = heads_of(suite, base=encoder)
    folder = _measure.WORK / f"{name}-{steps}-seed{seed}"
    vectors = {}
    for task in suite.tasks:
        target = folder / task.name
        if not target.exists():
            print(f"fine-tuning {task.name}: {steps} steps", flush=True)
            tune(encoder, task, head=heads[task.name], settings=settings).save(target)
        vectors[task.name] = tv.Checkpoint.open(target) - base
    return Tuned(
        suite=suite, encoder=encoder, heads=heads, base=base, vectors=vectors, settings=settings, folder=folder
    )  # fmt: skip
