"""The page of a suite's results, from the committed results of a real run."""

from __future__ import annotations

import json
from pathlib import Path

from taskvec.report import bench_page

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "docs8-seed0.json"


def test_the_page_of_real_results_marks_the_best_and_lacks_what_is_missing() -> None:
    record = json.loads(RESULTS.read_text("utf-8"))
    text = bench_page(record)
    best = max(record["addition"], key=lambda row: row["mean"])
    assert f'class="number best">{100 * best["mean"]:.1f}' in text
    assert text.count("<svg") == 3
    assert "Negated" not in text
    assert "<script" not in text
    both = bench_page({"suite": {"name": "two"}, "runs": [record, record]})
    assert "over seeds" in both
    assert bench_page({"suite": "none"}).count("<section>") == 0
