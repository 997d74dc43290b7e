"""Local energy of the tangent kernel's eigenfunctions on pairs of real tasks, for a pre-trained and a random encoder.

For each pair of tasks of `text8`: the kernel of the encoder's trainable parameters on a few test texts of both, its top
eigenfunctions, and how much of those that represent a task lives on that task's texts ("ratio": 1 is nowhere in
particular). The random encoder has the architecture of the pre-trained one, its own heads and its own fine-tuning.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import asdict, replace
from typing import Any

import torch

import _measure
import _suite
from taskvec.evaluate import localization, prepare, score
from taskvec.suites import LinearizedEncoder, TextEncoder, heads_of
from taskvec.tune import Settings, tune

PAIRS = (("sst2", "stackoverflow"), ("trec6", "ag_news"))
TASKS = tuple(dict.fromkeys(itertools.chain(*PAIRS)))


def main() -> None:
    """Tune, measure, write `tangent_kernel.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=48, help="of each task")
    parser.add_argument("--count", type=int, default=24, help="eigenfunctions")
    parser.add_argument("--budget", type=int, default=48, help="products with the kernel")
    parser.add_argument("--projections", type=int, default=1, help="random directions of the features, one kernel each")
    parser.add_argument("--steps", type=int, default=60, help="of tangent fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, suite = time.perf_counter(), _suite.SUITES["text8"]()
    pretrained = TextEncoder.open(suite.base)
    settings = Settings(steps=options.steps, seed=options.seed, learning_rate=_suite.RATES["text8", "tangent"])
    rows: list[dict[str, Any]] = []
    for label, encoder in (("pre-trained", pretrained), ("random", _suite.random_encoder(pretrained, options.seed))):
        rows += measured(label, encoder, suite, settings, options)
    result = {
        "what": {**vars(options), "suite": suite.name, "regime": "tangent", "settings": asdict(settings)},
        "rows": rows,
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps({"written": _measure.write("tangent_kernel", result).name}))


def measured(
    label: str, encoder: TextEncoder, suite: Any, settings: Settings, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Two rows a pair and projection."""
    heads = heads_of(replace(suite, tasks=tuple(suite.task(n) for n in TASKS)), base=encoder)
    test = prepare(encoder, suite, split="test", limit=options.texts, tasks=TASKS, heads=heads)
    vectors, after = {}, {}
    for name in TASKS:
        state = _measure.WORK / "tangent-kernel" / f"{label}-{name}-{settings.steps}-seed{settings.seed}.pt"
        tuned = tune(
            encoder,
            suite.task(name),
            regime="tangent",
            head=heads[name],
            settings=settings,
            resume=state,
            save_every=20,
        )
        vectors[name] = tuned.vector()
        after[name] = score(LinearizedEncoder(origin=encoder, tau=tuned.delta), test, regime="tangent")[name].value
        print(f"{label}: {name} tuned to {after[name]:.2f}", flush=True)
    before = score(encoder, test)
    rows = []
    for pair, drawn in itertools.product(PAIRS, range(options.projections)):
        generator = torch.Generator().manual_seed(1000 * options.seed + drawn)
        found = localization(
            encoder,
            {name: vectors[name] for name in pair},
            test,
            count=options.count,
            budget=options.budget,
            projection=torch.randn(encoder.module.config.hidden_size, 1, generator=generator),
        )
        for row in found.plain()["local_energy"]:
            task = row["task"]
            accuracy = {"accuracy_before": before[task].value, "accuracy_after": after[task]}
            rows.append({"model": label, "projection": drawn, **row, **accuracy, "residual": found.residual})
            print(f"{label}: {task} against {row['control']}: ratio {row['ratio']:.2f}", flush=True)
    return rows


if __name__ == "__main__":
    main()
