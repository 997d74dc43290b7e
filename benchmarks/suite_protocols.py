"""Real task vectors of a suite: what each codec keeps of the accuracy for its bytes, and each merge at its best scale.

Fine-tunes the suite once (kept in `work/`), then scores every task from its stored vector, and every merge of all
vectors; scales are chosen on validation texts, all reported numbers are on test texts.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import _measure
import _suite
import taskvec as tv
from taskvec.evaluate import addition, compression, own_scores, score

CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("dense", {}),
    "bfloat16": ("dense", {"dtype": "bfloat16"}),
    "int8": ("int8", {}),
    "int4": ("int4", {}),
    "tsv 1/4": ("tsv", {"density": 0.25}),
    "tsv 1/8": ("tsv", {"density": 0.125}),
    "tsv 1/20": ("tsv", {"density": 0.05}),
    "tsv 1/8 int8": ("tsv", {"density": 0.125, "dtype": "int8", "other": "int8"}),
    "tsv 1/20 int8": ("tsv", {"density": 0.05, "dtype": "int8", "other": "int8"}),
    "tsv 5% int8": ("tsv", {"budget": "5%", "dtype": "int8", "other": "int8"}),
    "tsv 1.5% int8": ("tsv", {"budget": "1.5%", "dtype": "int8", "other": "int8"}),
}
METHODS = ("average", "task_arithmetic", "ties", "dare_ties", "pcb")
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
VALIDATION = 80


def main() -> None:
    """Tune, score, write `<suite>-seed<k>.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="docs8", choices=sorted(_suite.SUITES))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    tuned = _suite.fine_tuned(options.suite, steps=options.steps, seed=options.seed)
    validation, test = tuned.inputs("val", limit=VALIDATION), tuned.inputs("test")
    single = [
        own_scores(tuned.encoder, tuned.vectors, inputs, regime="standard", autocast=True)
        for inputs in (validation, test)
    ]
    stored = compression(
        tuned.encoder, tuned.vectors, CODECS, tuned.folder / "stored", test=test, single=single[1], autocast=True
    )
    merged = addition(
        tuned.encoder,
        {name: tv.merge(name, tuned.vectors) for name in METHODS},
        validation=validation,
        test=test,
        single_validation=single[0],
        single_test=single[1],
        scales=SCALES,
        autocast=True,
    )
    result = {
        **tuned.about(),
        "zero_shot": score(tuned.encoder, test, autocast=True).plain(),
        "tuned": single[1].plain(),
        **stored.plain(),
        **merged.plain(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    path = _measure.write(f"{options.suite}-seed{options.seed}", result)
    for row in stored.rows:
        print(f"{row.name:14} {row.share:6.1%} of fp32  error {row.error:6.1%}  {row.scores.mean:.1%}")
    for each in merged.rows:
        print(f"{each.name:16} scale {each.scale:g}: {each.scores.mean:.1%} (at 1: {each.at_one.mean:.1%})")
    print(json.dumps({"written": path.name}))


if __name__ == "__main__":
    main()
