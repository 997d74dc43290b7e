"""The ablation of TSV-Merge on real task vectors: neither half of it, low rank alone, orthogonal vectors alone, both.

Scales are chosen on validation texts; numbers are on test texts. Word embeddings are averaged, as all that
is no matrix: their rows are words, of which a task sees few.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import _measure
import _suite
import taskvec as tv
from taskvec.checkpoint.layout import Layout
from taskvec.evaluate import addition, own_scores

ROWS: dict[str, dict[str, Any]] = {
    "neither": {"orthogonalizer": "none", "density": 1.0},
    "low rank only": {"orthogonalizer": "none"},
    "orthogonal only": {"density": 1.0, "overcomplete": True},
    "both": {},
}
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
VALIDATION = 80


def layout_of(vector: tv.TaskVector) -> Layout:
    """Embeddings are no matrices here."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "layout.yml"
        path.write_text('roles:\n  "*embeddings*": other\n')
        return Layout.of(vector.specs, path)


def main() -> None:
    """Write results/tsv_ablation-<suite>-seed<k>.json and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="docs8", choices=sorted(_suite.SUITES))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    tuned = _suite.fine_tuned(options.suite, steps=options.steps, seed=options.seed)
    layout = layout_of(next(iter(tuned.vectors.values())))
    validation, test = tuned.inputs("val", limit=VALIDATION), tuned.inputs("test")
    single = [
        own_scores(tuned.encoder, tuned.vectors, inputs, regime="standard", autocast=True)
        for inputs in (validation, test)
    ]
    with TemporaryDirectory() as folder:
        merged = {}
        for name, parameters in ROWS.items():
            path = Path(folder) / f"{len(merged)}.tv.safetensors"
            tv.merge("tsv_m", tuned.vectors, layout=layout, **parameters).save(path, dtype="float32")
            merged[name] = tv.TaskVector.open(path)
            print("merged", name, flush=True)
        found = addition(
            tuned.encoder,
            merged,
            validation=validation,
            test=test,
            single_validation=single[0],
            single_test=single[1],
            scales=SCALES,
            autocast=True,
        )
    result = {**tuned.about(), **found.plain(), "seconds": round(time.perf_counter() - started, 1)}
    _measure.write(f"tsv_ablation-{options.suite}-seed{options.seed}", result)
    for row in found.rows:
        print(f"{row.name:16} scale {row.scale:g}: {row.scores.mean:.1%} (at 1: {row.at_one.mean:.1%})")


if __name__ == "__main__":
    main()
