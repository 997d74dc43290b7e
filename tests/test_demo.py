"""The demonstration, end to end, on a tiny random encoder and two word tasks."""

import json

import pytest

import taskvec as tv
from taskvec.demo import run_demo
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


def test_fine_tuning_helps_and_the_table_has_a_row_a_task_and_the_mean(ran):
    result, *_ = ran
    columns = {c.title: c.scores for c in result.columns}
    assert columns["tuned"].mean > columns["zero-shot"].mean
    assert [row[0] for row in result.rows()] == ["color", "animal", "mean"]


def test_the_merged_folder_is_the_base_plus_the_scaled_sum(ran):
    result, _, _, folder = ran
    base, store = tv.Checkpoint.open(folder / "base"), tv.Store.open(folder / "library")
    expected = base + result.scale * (store["color"] + store["animal"])
    assert tv.Checkpoint.open(folder / "merged").fingerprint() == expected.fingerprint()


def test_the_report_and_the_results_are_on_the_disk(ran):
    result, *_ = ran
    assert "| color |" in result.report.read_text("utf-8")
    assert json.loads((result.folder / "results.json").read_text())["restored"] == 2


def test_a_second_run_trains_and_scores_nothing_and_says_the_same(ran):
    first, run, said, folder = ran
    before = {
        p: p.stat().st_mtime_ns
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("report.md", "results.json")
    }
    said.clear()
    again = run()
    assert again.to_json() == first.to_json()
    assert not [line for line in said if line.startswith("  ")], "each step that computes says so, indented"
    assert {p: p.stat().st_mtime_ns for p in before} == before
