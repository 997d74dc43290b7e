"""`taskvec tune` and `taskvec eval`: what is written, what is scored, what an interrupt leaves, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import taskvec as tv
from cli_cases import ENVIRONMENT, call, called_json, process, refused
from taskvec.evaluate import affine, evaluate, prepare
from taskvec.suites import Suite, TextEncoder, heads_of, suite_named
from taskvec.tune import Settings, tune
from tiny_text import write_tables, write_tiny_encoder

TASKS = ("sst2", "subj")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, tables, a model tuned on sst2 and a pair tuned on subj."""
    folder = tmp_path_factory.mktemp("home")
    write_tiny_encoder(folder / "base")
    write_tables(folder / "data", TASKS)
    call("tune", *tuning(folder, "sst2"), "--learning-rate", "2e-3", "-o", folder / "tuned")
    call("tune", *tuning(folder, "subj"), "--regime", "tangent", "--learning-rate", "1e-2", "-o", folder / "pair")
    return folder


def given(home: Path) -> list[object]:
    return ["--data", home / "data", "--base", home / "base"]


def tuning(home: Path, task: str, steps: int = 30) -> list[object]:
    return ["text8", task, *given(home), "--steps", steps, "--threads", 1]


def evaluating(home: Path) -> list[object]:
    return ["--suite", "text8", "--tasks", "sst2,subj", *given(home)]


def suite_of(home: Path) -> Suite:
    return suite_named("text8", data=home / "data", base=str(home / "base"), tasks=TASKS)


def as_read(result: Any) -> Any:
    return json.loads(result.to_json())


def test_tune_writes_the_model_that_the_library_makes(home: Path) -> None:
    suite = suite_of(home)
    encoder = TextEncoder.open(home / "base")
    settings = Settings(steps=30, learning_rate=2e-3)
    expected = tune(encoder, suite.tasks[0], head=heads_of(suite)["sst2"], settings=settings)
    found = load_file(home / "tuned" / "model.safetensors")
    own = expected.encoder.module.state_dict()
    assert all(torch.equal(own[name], found[name]) for name in own)
    assert evaluate(home / "tuned", suite)["sst2"].value > 0.9
    assert sorted(path.name for path in home.iterdir()) == ["base", "data", "pair", "tuned"]


def test_a_regime_of_pairs_writes_the_base_and_a_vector(home: Path, tmp_path: Path) -> None:
    base = tv.Checkpoint.open(home / "pair" / "base")
    assert base.fingerprint() == tv.Checkpoint.open(home / "base").fingerprint()
    vector = tv.TaskVector.open(home / "pair" / "subj.tv.safetensors", base=base)
    assert vector.norm() > 0
    path = home / "pair" / "subj.tv.safetensors"
    call("apply", home / "pair" / "base", "x", "--vectors", f"x={path}", "-o", tmp_path / "moved")
    assert tv.Checkpoint.open(tmp_path / "moved").fingerprint() == (base + vector).fingerprint()


@pytest.mark.parametrize("regime", ["lora", "l_lora", "attention_only"])
def test_every_regime_is_one_option(home: Path, tmp_path: Path, regime: str) -> None:
    more = ("--regime", regime, "--rank", 2, "-o", tmp_path / "out")
    table = called_json("tune", *tuning(home, "sst2", 2), *more)
    assert (table["regime"], len(table["losses"]), table["settings"]["rank"]) == (regime, 2, 2)
    assert (tmp_path / "out" / "sst2.tv.safetensors").exists() is (regime != "attention_only")
    assert (tmp_path / "out" / "model.safetensors").exists() is (regime == "attention_only")


def test_tune_says_what_it_did(home: Path, tmp_path: Path) -> None:
    shown = call("tune", *tuning(home, "sst2", 3), "--regime", "lora", "--rank", 2, "-o", tmp_path / "out").stdout
    assert "3 of 32 texts, learning rate 0.0002" in shown
    assert "over the last 3 steps" in shown
    assert call("tune", *tuning(home, "sst2", 1), "-o", tmp_path / "quiet", "--quiet").output == ""


def test_eval_of_a_model_is_evaluate(home: Path) -> None:
    suite = suite_of(home)
    assert called_json("eval", home / "tuned", *evaluating(home)) == as_read(evaluate(home / "tuned", suite))
    shown = call("eval", home / "tuned", *evaluating(home)).stdout
    assert [line.split()[0] for line in shown.splitlines() if "±" in line] == ["sst2", "subj", "mean"]
    limited = called_json("eval", home / "tuned", *evaluating(home), "--split", "val", "--limit", 7)
    assert limited == as_read(evaluate(home / "tuned", suite, split="val", limit=7))


def test_eval_of_an_expression_is_that_of_what_apply_writes(home: Path, tmp_path: Path) -> None:
    names = ["--vectors", f"a={home / 'tuned'}", "--vectors", f"b={home / 'pair' / 'subj.tv.safetensors'}"]
    for expression in ("0.5*(a + b)", "-a + 2*b"):
        out = tmp_path / str(len(expression))
        call("apply", home / "base", expression, *names, "-o", out)
        expected = as_read(evaluate(out, suite_of(home)))
        assert called_json("eval", expression, *names, *evaluating(home)) == expected
    call("store", "create", tmp_path / "library", "--base", home / "base")
    call("store", "add", tmp_path / "library", "a", home / "tuned", "--base", home / "base")
    found = called_json("eval", "a", "--store", tmp_path / "library", *evaluating(home))
    assert found == as_read(evaluate(home / "tuned", suite_of(home)))


def test_eval_of_a_vector_is_that_of_the_base_moved_by_it(home: Path) -> None:
    path = home / "pair" / "subj.tv.safetensors"
    base = tv.Checkpoint.open(home / "base")
    expected = evaluate(base + tv.TaskVector.open(path), suite_of(home))
    assert called_json("eval", path, *evaluating(home)) == as_read(expected)


def test_linear_scores_the_model_to_first_order(home: Path) -> None:
    encoder, suite = TextEncoder.open(home / "base"), suite_of(home)
    base = tv.Checkpoint.open(home / "base")
    vectors = {"pair": tv.TaskVector.open(home / "pair" / "subj.tv.safetensors"), "tuned": base_to_tuned(home, base)}
    line = affine(encoder, prepare(encoder, suite, split="test"), vectors, regime="linear")
    for name, path in (("pair", home / "pair" / "subj.tv.safetensors"), ("tuned", home / "tuned")):
        found = called_json("eval", path, "--linear", *evaluating(home))
        assert found == as_read(line.scores({name: 1.0}))


def base_to_tuned(home: Path, base: tv.Checkpoint) -> tv.TaskVector:
    vector: tv.TaskVector = tv.Checkpoint.open(home / "tuned") - base
    return vector


def test_ctrl_c_keeps_the_state_and_the_same_command_writes_the_same_bytes(home: Path, tmp_path: Path) -> None:
    def line(name: str) -> list[str]:
        return list(map(str, ["tune", *tuning(home, "sst2", 150), "-o", tmp_path / name]))

    command = [sys.executable, "-m", "taskvec", *line("cut")]
    state = tmp_path / ".cut.partial" / "state"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT) as running:
        while not state.exists():
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        told = running.communicate()[1]
        assert running.returncode == 130
    assert "run the same command again" in told
    assert not (tmp_path / "cut").exists()
    steps = len(torch.load(state, weights_only=True)["losses"])
    assert 0 < steps < 150
    for name in ("cut", "whole"):
        done = process(*line(name))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    assert not state.parent.exists()


def test_the_state_of_another_run_is_refused(home: Path, tmp_path: Path) -> None:
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    torch.save({"key": "another", "parameters": {}, "optimizer": {}, "losses": []}, partial / "state")
    message = refused("tune", *tuning(home, "sst2", 2), "-o", tmp_path / "out")
    assert "holds the state of another fine-tuning" in message
    assert (partial / "state").exists()


def test_an_output_is_replaced_on_request_only(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ["tune", *tuning(home, "sst2", 1), "-o", out]
    call(*line)
    before = (out / "model.safetensors").read_bytes()
    assert "exists already" in refused(*line)
    call(*line, "--seed", 1, "--force")
    assert (out / "model.safetensors").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("")
    assert "exists already" in refused("tune", *tuning(home, "sst2", 1), "-o", tmp_path / "file", "--force")
    assert "does not exist" in refused("tune", *tuning(home, "sst2", 1), "-o", tmp_path / "no" / "out")


def test_a_loss_that_is_not_finite_names_the_step(home: Path, tmp_path: Path) -> None:
    line = [*tuning(home, "sst2"), "--learning-rate", "1e30", "-o", tmp_path / "out"]
    message = refused("tune", *line)
    assert "on task 'sst2' at step" in message
    assert "lower the learning rate" in message
    assert not (tmp_path / "out").exists()


def test_a_fine_tuning_that_takes_too_long_keeps_its_state(home: Path, tmp_path: Path) -> None:
    line = [*tuning(home, "sst2"), "--time-limit", "1e-9", "-o", tmp_path / "out"]
    assert "'sst2' was at step 1 of 30 when its 1e-09 s were over" in refused("tune", *line)
    assert "'sst2' was at step 2 of 30" in refused("tune", *line)
    assert (tmp_path / ".out.partial" / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["text8", "sst3"], "has no task 'sst3'"),
        (["text9", "sst2"], "there is no suite 'text9'"),
        (["text8", "sst2", "--regime", "standart"], "did you mean 'standard'"),
        (["text8", "sst2", "--regime", "lora", "--rank", 1000], "rank=1000 is above"),
        (["text8", "sst2", "--learning-rate", "-1"], "learning_rate=-1.0 is out of its range"),
        (["text8", "cola"], "the task 'cola' has no 'train' split"),
    ],
)
def test_tune_refuses_before_anything_is_written(
    home: Path, tmp_path: Path, arguments: list[object], words: str
) -> None:
    message = refused("tune", *arguments, *given(home), "-o", tmp_path / "out")
    assert words in message
    assert list(tmp_path.iterdir()) == []


def rows(folder: Path, split: str, *lines: str) -> None:
    (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: rows(d, "test", "a thing,purple"), "the class 'purple' of the split 'test'"),
        (lambda d: (d / "train.csv").write_text("words,label\na,b\n"), "has no column 'text'"),
        (lambda d: rows(d, "train", "a,0", "b,1"), "are numbers without names"),
        (shutil.rmtree, "put train.parquet"),
        (lambda d: (d / "test.csv").write_bytes(b"\x00\xff\xfe"), "cannot be read as csv"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    home: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    data = shutil.copytree(home / "data", tmp_path / "data")
    spoil(data / "sst2")
    line = ["--suite", "text8", "--tasks", "sst2", "--data", data, "--base", home / "base"]
    assert words in refused("eval", home / "tuned", *line).replace("\n", " ")


def without(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def test_a_model_without_a_tensor_that_the_suite_needs_is_refused(home: Path, tmp_path: Path) -> None:
    model = shutil.copytree(home / "tuned", tmp_path / "model")
    without("encoder.layer.0.attention.self.query.weight")(model)
    message = refused("eval", model, *evaluating(home))
    assert "the encoder needs 'encoder.layer.0.attention.self.query.weight'" in message


def test_eval_refuses_what_it_cannot_score(home: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused("eval", tmp_path / "nowhere", *evaluating(home))
    assert "no task vector named 'b'" in refused("eval", "b", "--vectors", f"a={home / 'tuned'}", *evaluating(home))
    assert "has no split 'dev'" in refused("eval", home / "tuned", *evaluating(home), "--split", "dev")
    call("store", "create", tmp_path / "library", "--base", home / "base")
    assert "is a store" in refused("eval", tmp_path / "library", *evaluating(home))
    assert call("eval", home / "tuned", code=2).stdout == ""
    write_tiny_encoder(tmp_path / "other")
    moved = load_file(tmp_path / "other" / "model.safetensors")
    moved["embeddings.word_embeddings.weight"] += 1
    save_file(moved, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    line = ["--suite", "text8", "--tasks", "sst2", "--data", home / "data", "--base", tmp_path / "other"]
    assert "base" in refused("eval", home / "pair" / "subj.tv.safetensors", *line)


def test_expressions_begin_with_a_minus_and_files_go_in_backticks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home / "pair")
    found = called_json("eval", "-0.5*`subj.tv.safetensors`", *evaluating(home))
    base = tv.Checkpoint.open(home / "base")
    expected = evaluate(base - 0.5 * tv.TaskVector.open("subj.tv.safetensors"), suite_of(home))
    assert found == as_read(expected)
