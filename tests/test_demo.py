"""The demonstration, end to end, on a tiny random encoder and two word tasks."""

import json

import pytest

import taskvec as tv
from taskvec.demo import run_demo
from taskvec.demo.settings import SCALES
from taskvec.evaluate import evaluate
from taskvec.tune import Settings
from tiny_text import tiny_suite, write_tiny_encoder


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    suite = tiny_suite(write_tiny_encoder(folder / "encoder"))
    said: list[str] = []

    def run():
        settings = Settings(steps=60, learning_rate=5e-3)
        return run_demo(folder / "demo", suite=suite, negation=("color", "animal"), settings=settings, say=said.append)

    return run(), run, said, folder / "demo"


def test_every_tuned_model_is_restored_bit_for_bit_and_int8_is_smaller(ran):
    result, *_ = ran
    assert result.restored == 2
    assert result.sizes["int8"] < result.sizes["exact"] < result.sizes["checkpoint"]


def test_fine_tuning_helps_and_the_table_has_a_row_a_model_and_a_column_a_task(ran):
    result, *_ = ran
    rows = {r.title: r.scores for r in result.rows}
    assert rows["fine-tuned"].mean > rows["zero-shot"].mean
    assert result.tasks == ("color", "animal")
    for errors in (False, True):
        table = result.table(errors=errors)
        assert [line[0] for line in table] == list(rows)
        assert {len(line) for line in table} == {4}
        assert all(("±" in cell) == errors for line in table for cell in line[1:-1])


def test_every_merge_is_data_and_has_a_row_at_a_scale_of_its_grid(ran):
    result, *_ = ran
    assert list(result.scales) == [name for name in SCALES if name in tv.methods.names()]
    assert {"average", "task_arithmetic", "ties", "dare_ties", "pcb"} <= result.scales.keys()
    for method, scale in result.scales.items():
        assert scale in SCALES[method]
        assert (method if scale == 1 else f"{scale:g} × {method}") in [r.title for r in result.rows]


@pytest.mark.parametrize("method", ["ties", "task_arithmetic"])
def test_a_row_has_the_scores_of_the_model_that_it_names(method, ran):
    result, _, _, folder = ran
    base, store = tv.Checkpoint.open(folder / "base"), tv.Store.open(folder / "library")
    merged = tv.merge(method, {t: store[t] for t in result.tasks}, scale=result.scales[method])
    suite = tiny_suite(folder.parent / "encoder")
    scores = evaluate(base + merged, suite, autocast=True)
    (row,) = (r for r in result.rows if r.title.split()[-1] == method)
    assert row.scores.rows == scores.rows


def test_the_merged_folder_is_the_base_plus_the_scaled_sum(ran):
    result, _, _, folder = ran
    base, store = tv.Checkpoint.open(folder / "base"), tv.Store.open(folder / "library")
    expected = base + result.scales["task_arithmetic"] * (store["color"] + store["animal"])
    assert tv.Checkpoint.open(folder / "merged").fingerprint() == expected.fingerprint()


def test_the_report_and_the_results_are_on_the_disk(ran):
    result, *_ = ran
    report = (result.folder / "report.md").read_text("utf-8")
    assert "| model | color | animal | mean |" in report
    assert f"--store {result.folder}/library" in report
    assert json.loads((result.folder / "results.json").read_text())["restored"] == 2


def test_the_page_shows_every_merge_and_needs_nothing_else(ran):
    result, *_ = ran
    page = result.report.read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert all(f">{method}<" in page for method in result.scales)
    assert "Disentanglement" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_a_second_run_trains_and_scores_nothing_and_says_the_same(ran):
    first, run, said, folder = ran
    before = {
        p: p.stat().st_mtime_ns
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("report.md", "report.html", "results.json")
    }
    said.clear()
    again = run()
    assert again.to_json() == first.to_json()
    assert not [line for line in said if line.startswith("  ")], "each step that computes says so, indented"
    assert {p: p.stat().st_mtime_ns for p in before} == before
