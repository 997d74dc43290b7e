"""The page of a suite's results, from the committed results of a real run."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import taskvec as tv
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


def scored(value: float, n: int = 100) -> dict[str, object]:
    return {"task": "t", "value": value, "stderr": 0.01, "n": n}


def sides(*values: float) -> dict[str, object]:
    names = ("target_before", "target_after", "control_before", "control_after")
    return {name: scored(value) for name, value in zip(names, values, strict=True)}


def test_negations_have_a_mean_an_edge_and_rows_beside_them() -> None:
    rows = [
        {"target": "a", "control": "c", "scale": 2.0, "at_edge": True, **sides(0.8, 0.2, 0.6, 0.58)},
        {"target": "b", "control": "c", "scale": 0.5, "at_edge": False, **sides(0.6, 0.3, 0.6, 0.57)},
    ]
    noise = {"name": "random vector", "target": "a", "control": "c", "scale": 1.0, "target_before": 0.8}
    noise |= {"target_after": 0.799, "control_before": 0.6, "control_after": 0.601}
    text = bench_page({"negation": {"negation": rows}, "negation_baselines": [noise]})
    assert ">2*<" in text
    assert ">0.5<" in text
    mean = text[text.index(">mean<") : text.index(">a<")]
    assert all(f">{value}<" in mean for value in ("70.0", "25.0", "60.0", "57.5"))
    beside = text[text.index("beside the task vector") :]
    assert beside.index("task vector</td>") < beside.index("random vector")
    assert ">79.9<" in beside
    assert ">25.0<" in beside
    assert "beside the task vector" not in bench_page({"negation": {"negation": rows}})


def test_every_protocol_of_a_run_is_shown_by_a_section_and_none_by_a_bare_key() -> None:
    from taskvec.bench import PROTOCOLS
    from taskvec.report.bench import _KNOWN

    assert set(PROTOCOLS) <= set(_KNOWN)
    record = {
        "few_shot": {"few_shot": [{"target": "a", "vectors": 3, "loss_before": 1.5, "loss_after": 1.25}]},
        "disentanglement_pairs": {
            "mean": 0.1,
            "disentanglement_pairs": [{"first": "a", "second": "b", "at_one": 0.125}],
        },
        "arrival": {"arrival": [{"name": "ties", "arrived": "a", "count": 1, "mean": 0.5, "normalized": 1.0}]},
        "local_energy": {"texts": 4, "local_energy": [{"task": "a", "control": "b", "ratio": 3.25}]},
        "bases": {"bases": [{"name": "pca", "size": 4, "mean": 0.512}]},
        "analogy": {"analogy": [{"a": "A1", "b": "B1", "analogy": {"scale": 1.0, "score": scored(0.375)}}]},
    }
    text = bench_page(record)
    assert text.count("<section>") == len(record)
    assert all(each in text for each in ("1.25", "0.125", "ties", "3.25", "51.2", "37.5"))


def test_an_analysis_is_shown_with_what_its_numbers_mean(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = {n: tv.TaskVector.from_tensors({"w": torch.randn(6, 5, generator=generator)}) for n in ("left", "right")}
    found = tv.analyze(vectors, ["gram", "sti"])  # type: ignore[operator]
    plain = {**json.loads(found.to_json()), "meanings": dict(found.meanings)}
    text = bench_page({"analysis": plain})
    assert "Cosines" in text
    assert "Singular Task Interference" in text
    assert "<svg" in text
    cosine = next(row["cosine"] for row in plain["gram"] if row["task"] != row["other"])
    assert f"{cosine:.2f}".replace("-", "−") in text or f"{cosine:.2f}" in text
