"""A suite fine-tuned once and kept: what the benchmarks on real task vectors share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers

import _measure
import taskvec as tv
from taskvec.evaluate import Prepared, prepare
from taskvec.suites import Head, Suite, TextEncoder, docs8, heads_of, text8, text12
from taskvec.suites.encoder import folder_of
from taskvec.tune import Settings, tune

DATA = os.environ.get("TASKVEC_DATA", "data/text")  # TASK/{train,val,test}.parquet
SUITES = {"docs8": docs8, "text8": lambda: text8(DATA), "text12": lambda: text12(DATA)}
RATES = {("text8", "standard"): 5e-5, ("text8", "tangent"): 1e-4}  # others: the default of `Settings`


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


def fine_tuned(name: str, *, steps: int, seed: int = 0, regime: str = "standard") -> Tuned:
    """The suite's fine-tunes at so many steps; what an earlier run made is used again."""
    rate = RATES.get((name, regime), Settings().learning_rate)
    suite, settings = SUITES[name](), Settings(steps=steps, seed=seed, learning_rate=rate)
    source = folder_of(suite.base)
    encoder, base = TextEncoder.open(source), tv.Checkpoint.open(source)
    heads = heads_of(suite, base=encoder)
    folder = _measure.WORK / f"{name}-{regime}-{steps}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    vectors = {}
    for task in suite.tasks:
        target = folder / f"{task.name}.tv.safetensors"
        if not target.exists():
            print(f"fine-tuning {task.name}: {steps} steps, {regime}", flush=True)
            tuned = tune(encoder, task, regime=regime, head=heads[task.name], settings=settings)
            tuned.vector(base).save(target)
        vectors[task.name] = tv.TaskVector.open(target)
    return Tuned(
        suite=suite, encoder=encoder, heads=heads, base=base, vectors=vectors, settings=settings, folder=folder
    )  # fmt: skip


def random_encoder(like: TextEncoder, seed: int) -> TextEncoder:
    """The same architecture and tokenizer with the weights that the library draws."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = transformers.AutoModel.from_config(like.module.config)
    return replace(like, module=module.float().eval())
