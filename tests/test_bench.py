"""A suite end to end, on a tiny encoder and word tasks: what the pieces say, what is kept, what is refused."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import taskvec as tv
from cli_cases import ENVIRONMENT, call, called_json, on_a_terminal, process, refused
from taskvec.bench import PROTOCOLS, QUICK, Bench, BenchSettings, bench
from taskvec.bench.run import summary_of
from taskvec.bench.settings import pairs_of
from taskvec.bench.tuned import known_settings
from taskvec.errors import DestinationError, ParameterError, TimeLimit, UnknownName
from taskvec.evaluate import (
    Record,
    addition,
    affine,
    compression,
    evaluate,
    negation,
    own_scores,
    prepare,
)
from taskvec.suites import Suite, TextEncoder, heads_of, suite_named
from taskvec.suites.text_suites import TEXT8
from taskvec.tune import Settings, Step
from tiny_images import write_images, write_tiny_vit
from tiny_text import open_tiny, tiny_suite, word_task, write_tables, write_tiny_encoder

SMALL = BenchSettings(
    steps=30,
    learning_rate=2e-3,
    methods=("task_arithmetic", "ties", "dare", "nuslerp", "slerp"),
    codecs={"exact": ("dense", {}), "int4": ("int4", {})},
    scales=(0.3, 1.0),
    refine=2,
    negation_scales=(0.0, 0.5, 1.0),
    grid=(-1.0, 0.0, 1.0),
    beyond=(),
    protocols=QUICK,
)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return tiny_suite(write_tiny_encoder(tmp_path_factory.mktemp("tiny") / "base"))


@pytest.fixture(scope="module")
def ran(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return run(suite, tmp_path_factory.mktemp("bench") / "out")


def run(
    suite: Suite,
    folder: Path,
    settings: BenchSettings = SMALL,
    *,
    said: list[str] | None = None,
    progress: Callable[[str, Step], None] | None = None,
) -> Bench:
    return bench(suite, folder, settings, say=(said if said is not None else []).append, progress=progress)


def vectors_of(folder: Path) -> dict[str, tv.TaskVector]:
    (home,) = (folder / "vectors").iterdir()
    return {task: tv.TaskVector.open(home / f"{task}.tv.safetensors") for task in ("color", "animal")}


def without_edges(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without what the run says of its scales."""
    assert {type(row["at_edge"]) for row in rows} == {bool}
    return [{key: value for key, value in row.items() if key != "at_edge"} for row in rows]


def as_read(result: Record) -> Any:
    """What a result says, as it comes back from a file."""
    return json.loads(result.to_json())


def test_each_piece_says_what_the_protocol_says(ran: Bench, suite: Suite, tmp_path: Path) -> None:
    (found,) = ran.runs
    encoder, heads = open_tiny(Path(suite.base)), heads_of(suite)
    vectors = vectors_of(ran.folder)
    val, test = (prepare(encoder, suite, split=split, heads=heads) for split in ("val", "test"))
    assert found["zero_shot"]["rows"] == as_read(evaluate(encoder, suite, heads=heads, autocast=True))["rows"]
    single = [own_scores(encoder, vectors, inputs, regime="standard", autocast=True) for inputs in (val, test)]
    assert found["tuned"] == as_read(single[1])
    assert single[1].mean > 0.9
    merged = {name: tv.merge(name, vectors) for name in ("task_arithmetic", "ties", "dare", "nuslerp")}
    inputs = {"validation": val, "test": test}
    expected = addition(
        encoder,
        merged,
        **inputs,
        single_validation=single[0],
        single_test=single[1],
        scales=SMALL.scales,
        refine=2,
        autocast=True,
    )
    assert without_edges(found["addition"]["addition"]) == as_read(expected)["addition"]
    stored = compression(encoder, vectors, SMALL.codecs, tmp_path, test=test, single=single[1], autocast=True)
    assert found["compression"] == as_read(stored)
    controls, scales = {"color": "animal", "animal": "color"}, SMALL.negation_scales
    without = negation(encoder, vectors, controls=controls, **inputs, scales=scales, autocast=True)
    assert without_edges(found["negation"]["negation"]) == as_read(without)["negation"]
    assert (found["negation"]["target"], found["negation"]["control"]) == (without.target, without.control)
    expected_map = tv.disentanglement(encoder, vectors, test, SMALL.grid, autocast=True)  # type: ignore[arg-type]
    assert found["disentanglement"] == [as_read(expected_map)]
    analysis = tv.analyze(vectors, ["gram", "sti", "energy"])  # type: ignore[operator]
    assert found["analysis"].items() >= as_read(analysis).items()
    assert found["analysis"]["meanings"] == dict(analysis.meanings)


def test_what_cannot_merge_is_left_out_with_the_reason(ran: Bench) -> None:
    assert ran.runs[0]["skipped"] == {"slerp": "it merges points, not task vectors."}


def test_the_file_is_the_json_and_says_what_the_numbers_depend_on(ran: Bench, suite: Suite) -> None:
    text = ran.results.read_text("utf-8")
    assert text == ran.to_json() + "\n"
    about = json.loads(text)["suite"]
    assert about["base"] == tv.Checkpoint.open(suite.base).fingerprint()
    assert [(task["name"], task["train"], task["val"], task["test"]) for task in about["tasks"]] == [
        ("color", 80, 30, 50),
        ("animal", 80, 30, 50),
    ]
    assert about["tuning"]["learning_rate"] == 2e-3
    assert str(ran.folder) not in text


def test_the_page_shows_the_same_numbers_and_needs_nothing_else(ran: Bench) -> None:
    page = ran.report.read_text("utf-8")
    assert page == tv.report.bench_page(json.loads(ran.results.read_text("utf-8")))
    (record,) = ran.runs
    for row in record["addition"]["addition"]:
        assert f">{row['name']}<" in page
        assert f"{100 * row['mean']:.1f}" in page
    assert "it merges points, not task vectors." in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_a_second_run_computes_nothing_and_says_the_same(ran: Bench, suite: Suite) -> None:
    before = {path: path.stat().st_mtime_ns for path in ran.folder.rglob("*") if path not in (ran.results, ran.report)}
    said: list[str] = []
    assert run(suite, ran.folder, said=said).to_json() == ran.to_json()
    assert [line for line in said if line.startswith("  ") and "left out" not in line] == []
    assert {p: p.stat().st_mtime_ns for p in ran.folder.rglob("*") if p.is_file() and p in before} == {
        path: time for path, time in before.items() if path.is_file()
    }


def test_only_what_depends_on_a_change_is_computed_again(ran: Bench, suite: Suite) -> None:
    said: list[str] = []
    run(suite, ran.folder, replace(SMALL, scales=(0.5,)), said=said)
    assert {line.split()[0] for line in said if line.startswith("  ") and "left out" not in line} == {"merged"}
    other = word_task("color", ("red", "blue"))
    changed = replace(suite, tasks=(replace(suite.tasks[0], splits=other.splits), suite.tasks[1]))
    said.clear()
    run(changed, ran.folder, said=said)
    assert "  color: 30 steps, standard, seed 0" in said
    assert not [line for line in said if line.startswith("  animal")], "its data are the same"
    run(suite, ran.folder, said=said)


def test_seeds_are_summed_up_by_mean_and_spread(suite: Suite, tmp_path: Path) -> None:
    settings = replace(SMALL, seeds=(0, 3), methods=("ties", "dare"), pairs=0, codecs={})
    found = run(suite, tmp_path, settings)
    assert [record["seed"] for record in found.runs] == [0, 3]
    for at, name in enumerate(("ties", "dare")):
        rows = [record["addition"]["addition"][at] for record in found.runs]
        (row,) = [row for row in found.summary if row["name"] == name]
        assert row["mean"] == statistics.fmean(each["mean"] for each in rows)
        assert row["normalized_spread"] == statistics.stdev(each["normalized"] for each in rows)
    homes = sorted(path.name for path in (tmp_path / "vectors").iterdir())
    assert homes == ["standard-30-seed0", "standard-30-seed3"]
    first, second = (tv.TaskVector.open(tmp_path / "vectors" / home / "color.tv.safetensors") for home in homes)
    assert (first - second).norm() > 0


def test_two_runs_in_one_folder_do_not_meet(suite: Suite, tmp_path: Path) -> None:
    def meet(task: str, step: Step) -> None:
        run(suite, tmp_path)

    with pytest.raises(DestinationError, match="another run is working in"):
        run(suite, tmp_path, progress=meet)
    (tmp_path / "file").write_text("")
    with pytest.raises(DestinationError, match="is not a folder"):
        run(suite, tmp_path / "file")


def test_the_summary_of_one_seed_has_no_spread(ran: Bench) -> None:
    assert summary_of(ran.runs) == ran.summary
    assert {row["mean_spread"] for row in ran.summary} == {None}


def test_vectors_of_a_linear_regime_are_evaluated_to_first_order(suite: Suite, tmp_path: Path) -> None:
    settings = replace(SMALL, regime="tangent", learning_rate=1e-2, methods=("task_arithmetic",), pairs=1)
    (found,) = run(suite, tmp_path, settings).runs
    encoder, vectors = open_tiny(Path(suite.base)), vectors_of(tmp_path)
    test = prepare(encoder, suite, split="test")
    line = affine(encoder, test, vectors)
    assert found["tuned"]["rows"] == [as_read(line.scores({task: 1.0}))["rows"][at] for at, task in enumerate(vectors)]
    (row,) = found["addition"]["addition"]
    assert row["tasks"] == as_read(line.scores(dict.fromkeys(vectors, row["scale"])))["rows"]
    assert found["compression"]["compression"][0]["normalized"] == 1.0
    assert found["disentanglement"][0]["regime"] == "linear"
    before = as_read(own_scores(encoder, vectors, test, regime="tangent"))["rows"]
    assert before != found["tuned"]["rows"], "the model itself, moved as far, is another"


def test_an_interrupted_run_goes_on_and_says_the_same(ran: Bench, suite: Suite, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def stop(task: str, step: Step) -> None:
        seen.append((task, step.step))
        if (task, step.step) == ("animal", 28):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(suite, tmp_path, progress=stop)
    seen.clear()
    again = run(suite, tmp_path, progress=lambda task, step: seen.append((task, step.step)))
    assert seen[0] == ("animal", 26), "the state of step 25 was kept"
    assert len(seen) == 5
    assert again.to_json() == ran.to_json()
    assert list(tmp_path.rglob("*.state*")) == []


def test_an_interruption_between_pieces_loses_one_piece(ran: Bench, suite: Suite, tmp_path: Path) -> None:
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if line == "  stored as int4":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(suite, tmp_path, SMALL, say=stop)
    rest: list[str] = []
    assert run(suite, tmp_path, said=rest).to_json() == ran.to_json()
    computed = [line for line in rest if line.startswith("  ") and "left out" not in line]
    assert computed[0] == "  stored as int4"
    assert not set(computed[1:]) & set(said)


def test_a_task_that_takes_too_long_is_refused_and_goes_on_later(ran: Bench, suite: Suite, tmp_path: Path) -> None:
    def slow(task: str, step: Step) -> None:
        if step.step == 27:
            time.sleep(0.2)

    with pytest.raises(TimeLimit, match=r"of 'color' was at step \d+ of 30 when its 0\.1 s were over"):
        run(suite, tmp_path, replace(SMALL, time_limit=0.1), progress=slow)
    assert run(suite, tmp_path).to_json() == ran.to_json()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": ()}, "seeds=[]"),
        ({"seeds": (1, 1)}, "seeds=[1, 1]"),
        ({"limit": 0}, "limit=0"),
        ({"validation": 0}, "validation=0"),
        ({"refine": -1}, "refine=-1"),
        ({"pairs": -1}, "pairs=-1"),
        ({"map_limit": 0}, "map_limit=0"),
        ({"energy_limit": 0}, "energy_limit=0"),
        ({"shots": 0}, "shots=0"),
        ({"time_limit": 0.0}, "time_limit=0.0"),
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words.replace("[", r"\[")):
        BenchSettings(**options)


@pytest.mark.parametrize(
    "options", [{"regime": "standart"}, {"methods": ("tiess",)}, {"codecs": {"a": ("tsw", {})}}], ids=str
)
def test_unknown_names_are_refused_before_anything_is_done(options: dict[str, Any]) -> None:
    with pytest.raises(UnknownName, match="Fix: did you mean"):
        BenchSettings(**options)


def test_quick_is_less_of_the_same() -> None:
    whole, quick = BenchSettings(), BenchSettings().quick()
    assert quick.steps < whole.steps
    assert quick.limit < whole.limit
    assert set(quick.scales) < set(whole.scales)
    assert 0.0 in quick.negation_scales
    assert set(quick.codecs) < set(whole.codecs)
    assert set(quick.methods or ()) < set(tv.methods.names())
    assert BenchSettings(methods=("dare",)).quick().methods == ("dare",)
    assert set(quick.protocols or ()) < set(PROTOCOLS)
    assert BenchSettings(protocols=("arrival",)).quick().protocols == ("arrival",)


def test_the_learning_rate_is_the_suites_unless_it_is_given() -> None:
    assert BenchSettings().tuning(0, {"standard": 7e-5}).learning_rate == 7e-5
    assert BenchSettings(regime="lora").tuning(0, {"standard": 7e-5}).learning_rate == 2e-4
    assert BenchSettings(learning_rate=1e-3).tuning(4, {"standard": 7e-5}).seed == 4


def test_a_setting_that_came_later_keeps_the_keys_of_earlier_runs() -> None:
    settings = Settings()
    later = {"derivative", "ascend"}
    assert not later & known_settings(settings).keys()
    assert known_settings(replace(settings, derivative="central"))["derivative"] == "central"
    assert known_settings(settings).keys() == {field.name for field in fields(settings)} - later


def test_pairs_are_neighbors(suite: Suite) -> None:
    names = ("a", "b", "c", "d", "e")
    five = replace(suite, tasks=tuple(replace(suite.tasks[0], name=name) for name in names))
    assert pairs_of(five, 9) == [("a", "b"), ("c", "d")]
    assert pairs_of(five, 1) == [("a", "b")]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tables")
    write_tiny_encoder(home / "base")
    write_tables(home / "data", [table.name for table in TEXT8])
    return home


def arguments(tables: Path, *more: object) -> list[str]:
    given = ["text8", "--data", tables / "data", "--base", tables / "base", "--tasks", "sst2,subj", "--quick", *more]
    return list(map(str, given))


def test_the_command_prints_tables_and_json_is_what_was_written(tables: Path, tmp_path: Path) -> None:
    line = arguments(tables, "--learning-rate", "2e-3", "-o", tmp_path / "out")
    shown = call("bench", *line)
    assert "task_arithmetic" in shown.stdout
    assert f"results: {tmp_path / 'out' / 'results.json'}" in shown.stdout
    assert called_json("bench", *line) == json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert call("bench", *line, "--quiet").output == ""


def test_a_terminal_shows_steps_with_accuracy_and_what_is_computed(tables: Path, tmp_path: Path) -> None:
    line = arguments(tables, "--methods", "average", "--limit", 20, "--threads", 1, "-o", tmp_path / "out")
    shown = on_a_terminal("bench", *line)
    assert re.search(
        r"[a-z0-9]+ ━+ +\d+/30 accuracy \d+%", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("╸", "━")
    )
    assert "merged by average" in shown


def test_ctrl_c_stops_a_process_and_the_same_command_goes_on(tables: Path, tmp_path: Path) -> None:
    def line(folder: str) -> list[str]:
        more = ("--methods", "average,task_arithmetic", "--limit", 20, "--threads", 1, "-o", tmp_path / folder)
        return ["bench", *arguments(tables, *more)]

    whole = process(*line("whole"))
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-u", "-m", "taskvec", *line("cut")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT) as running:
        assert running.stderr is not None
        for text in running.stderr:
            if "merged by task_arithmetic" in text:
                running.send_signal(signal.SIGINT)
                break
        told = running.stderr.read()
        assert running.wait() == 130
    assert "what is finished is kept in" in told
    assert "run the same command again" in told
    assert "Traceback" not in told
    assert not (tmp_path / "cut" / "results.json").exists()
    again = process(*line("cut"))
    assert again.returncode == 0, again.stderr
    assert "merged by average" not in again.stderr
    assert (tmp_path / "cut" / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()


def test_what_a_suite_needs_is_said(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKVEC_DATA", raising=False)
    assert "did you mean 'text8'" in refused("bench", "test8")
    assert "read from a folder of tables" in refused("bench", "text8")
    missing = refused("bench", "text8", "--data", tmp_path / "nowhere")
    assert "the task 'sst2' has no 'train' split" in missing
    assert "put train.parquet with the columns text and label into" in missing.replace("\n", " ")
    assert "has no task 'sst3'" in refused("bench", *arguments(tables, "--tasks", "sst3"))
    assert "no merge method named 'tiess'" in refused("bench", *arguments(tables, "--methods", "tiess"))
    assert "no fine-tuning regime 'tangnet'" in refused("bench", *arguments(tables, "--regime", "tangnet"))
    assert call("bench", *arguments(tables, "--seeds", "a"), code=2).stdout == ""


def test_the_control_of_text8_is_read_where_it_is(tables: Path, tmp_path: Path) -> None:
    data = write_tables(tmp_path / "data", [*(table.name for table in TEXT8), "clinc150"])
    assert suite_named("text8", data=tables / "data").controls == ()
    found = suite_named("text8", data=data)
    assert [task.name for task in found.controls] == ["clinc150"]
    assert found.control_of("sst2") is found.controls[0]
    assert len(found.tasks) == 8


def test_a_target_is_never_its_own_control(suite: Suite) -> None:
    assert suite.control_of("color") == suite.tasks[1]
    assert replace(suite, controls=suite.tasks).control_of("color") == suite.tasks[1]
    assert replace(suite, tasks=suite.tasks[:1]).control_of("color") is None


def test_one_task_without_a_control_has_no_negation(suite: Suite, tmp_path: Path) -> None:
    alone = replace(suite, tasks=suite.tasks[:1])
    (found,) = run(alone, tmp_path, replace(SMALL, methods=("average",), codecs={})).runs
    assert "negation" not in found
    assert found["skipped"] == {"negation": "there is no control for the negation of 'color'."}
    assert found["disentanglement"] == []
    assert "sti" not in found["analysis"], "it compares two"


def test_targets_are_some_of_the_tasks_and_validation_texts_are_no_more_than_test_texts(
    suite: Suite, tmp_path: Path
) -> None:
    settings = replace(SMALL, methods=("average",), codecs={}, pairs=0, targets=("animal",), limit=20, validation=10)
    found = run(suite, tmp_path, settings)
    assert [row["target"] for row in found.runs[0]["negation"]["negation"]] == ["animal"]
    assert {row["n"] for row in found.runs[0]["tuned"]["rows"]} == {20}
    assert (found.suite["validation"], replace(settings, limit=5).chosen_on) == (10, 5)
    for wrong in ({"targets": ("animals",)}, {"protocols": ("negations",)}):
        with pytest.raises(UnknownName, match=r"did you mean '(animal|negation)'"):
            run(suite, tmp_path / "wrong", replace(settings, **wrong))
    assert not (tmp_path / "wrong").exists()


def test_the_encoder_has_its_weights_back(ran: Bench, suite: Suite) -> None:
    """A run that left the base moved would give other numbers to what comes after."""
    encoder = TextEncoder.open(suite.base)
    assert as_read(evaluate(encoder, suite, autocast=True))["rows"] == ran.runs[0]["zero_shot"]["rows"]


def test_a_suite_of_images_in_a_yaml_file_runs_as_any_other(tmp_path: Path) -> None:
    write_tiny_vit(tmp_path / "vit")
    for task in ("first", "second"):
        write_images(tmp_path / task)
    file = tmp_path / "pictures.yml"
    file.write_text("base: vit\ninputs: images\ntasks:\n  first: {folder: first}\n  second: {folder: second}\n")
    line = [file, "--quick", "--learning-rate", "1e-2", "--methods", "average", "-o", tmp_path / "out"]
    (found,) = called_json("bench", *line)["runs"]
    assert found["addition"]["addition"][0]["name"] == "average"
    assert [row["n"] for row in found["tuned"]["rows"]] == [16, 16]
    assert found["tuned"]["mean"] > 0.9
    assert str(tmp_path) not in (tmp_path / "out" / "results.json").read_text("utf-8")
