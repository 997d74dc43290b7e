"""`merge`, `plan` and `methods`: one recipe by three doors, the same bytes every time, refusals before any output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import taskvec as tv
from cli_cases import ENVIRONMENT, call, called_json, refused
from merge_cases import MODELS, model_folders, save_model, tensors_of

RECIPE = """\
method: ties
base: base
inputs: {math: math, code: library-code, chat: chat}
parameters: {density: {math: 0.5, code: 0.25, chat: 1}}
scale: 0.7
dtype: bfloat16
shard_size: 1KB
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that no test changes, and a recipe."""
    root = model_folders(tmp_path_factory.mktemp("models"))
    save_model(root / "library-code", {**tensors_of("code"), "steps": torch.arange(3)})
    (root / "recipe.yml").write_text(RECIPE)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def flags(models: Path) -> list[str]:
    """The recipe as options."""
    density = "density={math: 0.5, code: 0.25, chat: 1}"
    inputs = [f"math={models / 'math'}", f"code={models / 'library-code'}", str(models / "chat")]
    options = ["--set", density, "--scale", "0.7", "--dtype", "bfloat16", "--shard-size", "1KB"]
    return ["--method", "ties", "--base", str(models / "base"), *inputs, *options]


# One recipe, three doors


def test_yaml_flags_and_python_write_the_same_bytes(models: Path, tmp_path: Path) -> None:
    """Metadata, card, index and shards included."""
    call("merge", models / "recipe.yml", "-o", tmp_path / "yaml")
    call("merge", *flags(models), "-o", tmp_path / "flags")
    sources = {"math": models / "math", "code": models / "library-code", "chat": models / "chat"}
    parameters = {"density": {"math": 0.5, "code": 0.25, "chat": 1}}
    made = tv.Recipe.of(
        "ties",
        sources,
        base=models / "base",
        parameters=parameters,
        scale=0.7,
        dtype="bfloat16",
        shard_size="1KB",
    )
    made.run(tmp_path / "python")
    made.build().save(tmp_path / "saved", dtype="bfloat16", shard_size="1KB")
    expected = contents(tmp_path / "yaml")
    assert len(expected) > 4
    for other in ("flags", "python", "saved"):
        assert contents(tmp_path / other) == expected


def test_the_output_says_what_made_it_and_nothing_of_this_machine(models: Path, tmp_path: Path) -> None:
    """Method, parameters, scale, names and fingerprints of all inputs, in metadata and card; no path."""
    call("merge", models / "recipe.yml", "-o", tmp_path / "out")
    merged = tv.Checkpoint.open(tmp_path / "out")
    home = merged.source.home
    assert home is not None
    (text,) = {m["taskvec_recipe"] for m in home.metadata.values()}
    table = json.loads(text)
    (term,) = table["terms"]
    assert table["base"] == {"name": "base", "fingerprint": tv.Checkpoint.open(models / "base").fingerprint()}
    assert (term["method"], term["coefficient"]) == ("ties", 0.7)
    assert term["parameters"].items() >= {"density": [0.5, 0.25, 1], "aggregate": "mean"}.items()
    for name, source in (("math", "math"), ("code", "library-code"), ("chat", "chat")):
        fingerprint = tv.Checkpoint.open(models / source).fingerprint()
        assert term["inputs"][name] == [{"coefficient": 1.0, "tuned": source, "fingerprint": fingerprint}]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model_relation: merge" in card
    assert "density:" in card
    for data in contents(tmp_path / "out").values():
        assert str(models.parent).encode() not in data


def test_the_seed_and_the_dialect_are_recorded(models: Path, tmp_path: Path) -> None:
    """For a method that draws."""
    code = "import drawing_method; from taskvec.cli import main; main()"
    arguments = ["merge", "--method", "drawing_test", "--base", "base", "math", "code", "--seed", "5"]
    run(code, *arguments, "--dialect", "mergekit", "-o", str(tmp_path / "out"), cwd=models)
    home = tv.Checkpoint.open(tmp_path / "out").source.home
    assert home is not None
    (term,) = json.loads(home.metadata["model.safetensors"]["taskvec_recipe"])["terms"]
    assert term["parameters"] == {"density": 0.5, "dialect": "mergekit", "seed": 5}
    assert "seed: 5" in (tmp_path / "out" / "README.md").read_text()
    run(code, *arguments[:-1], "7", "-o", str(tmp_path / "other"), cwd=models)
    one, other = (tv.Checkpoint.open(tmp_path / n)["lm_head.weight"] for n in ("out", "other"))
    assert not torch.equal(one, other)


def test_options_replace_what_a_recipe_says(models: Path, tmp_path: Path) -> None:
    """Parameters one by one; paths on the command line start from here."""
    plan = called_json("plan", models / "recipe.yml", "--scale", "0.5", "--set", "aggregate=sum", "--dtype", "float32")
    assert plan["recipe"]["scale"] == 0.5
    assert plan["recipe"]["dtype"] == "float32"
    assert plan["recipe"]["parameters"]["aggregate"] == "sum"
    assert plan["recipe"]["parameters"]["density"] == {"math": 0.5, "code": 0.25, "chat": 1}
    named = call("plan", models / "recipe.yml", "--base", models / "base").stdout
    assert str(models / "base") in named
    assert "Error: ties has no parameter 'densty'." in refused("plan", models / "recipe.yml", "--set", "densty=1")
    assert "Error: unknown dtype 'bf17'." in refused("plan", models / "recipe.yml", "--dtype", "bf17")


# The same bytes


def run(code: str, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run code with arguments in a process of its own."""
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {})
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, env=environment, cwd=cwd)


MAIN = "from taskvec.cli import main; main()"


def test_the_bytes_depend_neither_on_the_hash_seed_nor_on_threads(models: Path, tmp_path: Path) -> None:
    """Three seeds, three numbers of workers."""
    found = []
    for seed, threads in ((0, 1), (1, 2), (2, 4)):
        output = tmp_path / f"{seed}"
        arguments = ["merge", str(models / "recipe.yml"), "-o", str(output), "--threads", str(threads)]
        run(MAIN, *arguments, env={"PYTHONHASHSEED": str(seed)})
        found.append(contents(output))
    assert found[0] == found[1] == found[2]


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of 24 tensors of 512 kB, to be killed in the middle of."""
    root = tmp_path_factory.mktemp("big")
    for i, name in enumerate(("base", "math", "code")):
        generator = torch.Generator().manual_seed(i)
        save_model(root / name, {f"layers.{j}.w": torch.randn(256, 512, generator=generator) for j in range(24)})
    return root


def test_a_killed_merge_goes_on_and_gives_the_same_bytes(big: Path, tmp_path: Path) -> None:
    """kill -9 in the middle; the same command completes it, from what was finished."""
    arguments = ["merge", "--method", "ties", "--base", str(big / "base"), str(big / "math"), str(big / "code")]
    command = [sys.executable, "-m", "taskvec", *arguments, "--threads", "1", "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    running = subprocess.Popen([*command, str(tmp_path / "out")], env=os.environ | ENVIRONMENT)
    journal = tmp_path / ".out.partial" / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert running.poll() is None
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "out").exists()
    kept = journal.read_bytes().count(b"\n")
    assert kept >= 4
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]


def test_another_layout_does_not_go_on_from_a_killed_merge(big: Path, tmp_path: Path) -> None:
    """What a layout file says is part of the run that is resumed."""
    base = tv.Checkpoint.open(big / "base")
    recipe = tv.Recipe.of("average", [big / "math"], base=big / "base")
    (tmp_path / "roles.yml").write_text('roles:\n  "layers.1.w": skip\n')
    changed = recipe.changed(layout=str(tmp_path / "roles.yml"))
    assert recipe.build().source.inputs() != changed.build().source.inputs()
    assert torch.equal(changed.build()["layers.1.w"], base["layers.1.w"])


# Refusals


@pytest.fixture
def inside(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the folder of the models."""
    monkeypatch.chdir(models)


@pytest.mark.parametrize(
    ("arguments", "cause", "fix"),
    [
        (["--method", "tis", "math", "--base", "base"], "no merge method named 'tis'", "did you mean 'ties'?"),
        (["--method", "ties", "math"], "there is no base", "give the base"),
        (["--method", "ties", "math", "--base", "bse"], "'bse' does not exist", "check the path"),
        (["--method", "ties", "mth", "--base", "base"], "there is no 'mth'", "check the path"),
        (["--method", "ties", "math", "--base", "base", "--set", "density=2"], "outside (0, 1]", "in (0, 1]"),
        (["--method", "ties", "math", "--base", "base", "--set", "densty=1"], "no parameter 'densty'", "'density'"),
        (
            ["--method", "ties", "math", "--base", "base", "--set", "density={"],
            "--set density, line 1",
            "close the bracket",
        ),
        (
            ["--method", "ties", "math", "--base", "base", "--transform", "awd"],
            "no transform is named 'awd'",
            "known: magnitude_prune",
        ),
        (["--method", "ties", "math", "./math", "--base", "base"], "two inputs are named 'math'", "NAME=SOURCE"),
        (["--method", "ties", "math", "small", "--base", "base"], "F32[5, 8]", "same size"),
        (["nowhere.yml"], "the recipe 'nowhere.yml' cannot be read", "check the path"),
    ],
)
@pytest.mark.usefixtures("inside")
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: list[str], cause: str, fix: str
) -> None:
    """Exit code 1, the cause, the fix; by `plan` as by `merge`."""
    for verb in ("plan", "merge"):
        message = refused(verb, *arguments, "-o", tmp_path / "out")
        assert cause in message
        assert fix in message
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.yml", "b.yml"],
        ["--method", "ties", "--base", "base"],
        ["--method", "ties", "math", "--set", "density"],
        ["--method", "ties", "math", "--set", "density=1", "--set", "density=1"],
        ["--method", "ties", "a=math", "a=code"],
        ["--method", "ties", "math", "--seed", "-1"],
    ],
)
def test_usage_errors_exit_with_2(models: Path, tmp_path: Path, arguments: list[str]) -> None:
    """A call that says too little or something twice."""
    assert "Usage" in call("merge", *arguments, "-o", tmp_path / "out", code=2).stderr


def test_a_destination_that_exists_is_replaced_only_by_force(models: Path, tmp_path: Path) -> None:
    """By `merge`; `plan` refuses it, too."""
    (tmp_path / "out").mkdir()
    for verb in ("merge", "plan"):
        assert "exists already" in refused(verb, models / "recipe.yml", "-o", tmp_path / "out")
    call("plan", models / "recipe.yml", "-o", tmp_path / "out", "--force")
    call("merge", models / "recipe.yml", "-o", tmp_path / "out", "--force")
    assert (tmp_path / "out" / "README.md").exists()


# What is printed


def test_merge_prints_a_summary_json_or_nothing(models: Path, tmp_path: Path) -> None:
    """--json and --quiet."""
    text = call("merge", models / "recipe.yml", "-o", tmp_path / "a").stdout
    assert text.startswith("wrote  ")
    assert "density math 0.5 code 0.25 chat 1" in text
    table = called_json("merge", models / "recipe.yml", "-o", tmp_path / "b")
    assert (table["method"], table["kind"]) == ("ties", "checkpoint")
    assert list(table["inputs"]) == ["math", "code", "chat"]
    assert table["recipe"]["terms"][0]["method"] == "ties"
    assert call("merge", models / "recipe.yml", "-o", tmp_path / "c", "--quiet").output == ""


def test_plan_groups_tensors_with_equal_coefficients(models: Path) -> None:
    """Layers on one line; --json is complete."""
    arguments: list[Any] = ["--method", "task_arithmetic", "--base", models / "base", models / "math"]
    rules = 'coefficients=[{filter: "*mlp*", value: 0.25}, {value: 0.5}]'
    text = call("plan", *arguments, "--set", rules).stdout
    assert "plan  task_arithmetic of math" in text
    assert "model.layers.0-2.mlp.weight" in text
    assert "math 0.25" in text
    table = called_json("plan", *arguments, "--set", rules)
    assert [t["name"] for t in table["tensors"]] == ["steps", *MODELS]
    assert {"bytes_in", "bytes_out", "passes", "peak", "seconds", "assumptions", "unchecked"} <= table.keys()
    assert not list(models.glob(".*partial"))


def test_methods_lists_all_and_shows_one() -> None:
    """Every registered name with its summary; formula, source, parameters, laws, needs, cost of one."""
    listed = call("methods").stdout
    table = called_json("methods")["methods"]
    assert [m["name"] for m in table] == tv.methods.names()
    for method in table:
        assert method["name"] in listed
        assert method["summary"]
        assert method["source"]
    shown = call("methods", "ties").stdout
    for part in ("arXiv:2306.01708", "density", "(0, 1]", "0.2", "permutation", "task vectors", "3 times"):
        assert part in shown
    one = called_json("methods", "ties")
    assert (one["passes"], one["acts_on"], one["base"]) == (3, "element", "required")
    assert one["parameters"][0]["text"].startswith("fraction of the model's entries")
    assert "did you mean 'ties'?" in refused("methods", "tiess")
