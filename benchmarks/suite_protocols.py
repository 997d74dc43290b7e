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
MERGES: dict[str, tuple[str, dict[str, Any]]] = {
    "average": ("average", {}),
    "task_arithmetic": ("task_arithmetic", {}),
    "ties": ("ties", {}),
    "dare_ties": ("dare_ties", {}),
    "pcb": ("pcb", {}),
    "iso_c": ("iso_c", {}),
    "iso_cts": ("iso_cts", {}),
    "wudi": ("wudi", {}),
    "wudi ridge 0": ("wudi", {"ridge": 0.0}),
    "wudi adam": ("wudi", {"solver": "adam"}),
    "knots ties": ("knots", {"method": "ties"}),
    "boosted average": ("subspace_boosting", {"method": "average"}),
    "star": ("star", {}),
    "cart": ("cart", {}),
}
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
VALIDATION = 80


def main() -> None:
    """Tune, score, write `<suite>-seed<k>.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="docs8", choices=sorted(_suite.SUITES))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--merges", nargs="+", choices=MERGES, metavar="LABEL", help="score these alone, and leave all other rows alone"
    )
    options = parser.parse_args()
    started = time.perf_counter()
    tuned = _suite.fine_tuned(options.suite, steps=options.steps, seed=options.seed)
    validation, test = tuned.inputs("val", limit=VALIDATION), tuned.inputs("test")
    single = [
        own_scores(tuned.encoder, tuned.vectors, inputs, regime="standard", autocast=True)
        for inputs in (validation, test)
    ]
    name = f"{options.suite}-seed{options.seed}"
    if options.merges:
        result = json.loads((_measure.RESULTS / f"{name}.json").read_text("utf-8"))
        if result["tuned"] != json.loads(json.dumps(single[1].plain())):
            raise SystemExit(f"{name}.json is of other vectors: run without --merges.")
    else:
        stored = compression(
            tuned.encoder, tuned.vectors, CODECS, tuned.folder / "stored", test=test, single=single[1], autocast=True
        )
        for row in stored.rows:
            print(f"{row.name:14} {row.share:6.1%} of fp32  error {row.error:6.1%}  {row.scores.mean:.1%}", flush=True)
        zero_shot = score(tuned.encoder, test, autocast=True).plain()
        result = {**tuned.about(), "zero_shot": zero_shot, "tuned": single[1].plain(), **stored.plain(), "addition": []}
    rows = {row["name"]: row for row in result["addition"]}
    for label in options.merges or MERGES:
        method, given = MERGES[label]
        merged = addition(
            tuned.encoder,
            {label: tv.merge(method, tuned.vectors, **given)},
            validation=validation,
            test=test,
            single_validation=single[0],
            single_test=single[1],
            scales=SCALES,
            autocast=True,
        )
        rows |= {row["name"]: row for row in merged.plain()["addition"]}
        result["addition"] = [rows[known] for known in MERGES if known in rows]
        if not options.merges:
            result["seconds"] = round(time.perf_counter() - started, 1)
        _measure.write(name, result)
        best = merged[label]
        print(f"{label:16} scale {best.scale:g}: {best.scores.mean:.1%} (at 1: {best.at_one.mean:.1%})", flush=True)


if __name__ == "__main__":
    main()
