"""`taskvec store` from the shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_cases import call, called_json, folder, refused, tensors


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base, two tuned models and an empty store; we are in it."""
    for seed, name in enumerate(("base", "math", "toxic")):
        folder(tmp_path / name, tensors(seed))
    monkeypatch.chdir(tmp_path)
    call("store", "create", "my library", "--base", "base", "--quiet")
    return tmp_path


def add(name: str, tuned: str, *options: str) -> None:
    call("store", "add", "my library", name, tuned, "--base", "base", "--quiet", *options)


def test_a_new_store_says_that_it_is_empty(here: Path) -> None:
    assert "none yet" in call("store", "show", "my library").stdout
    assert called_json("store", "list", "my library")["vectors"] == []


def test_tuned_models_and_vectors_are_added_under_any_name(here: Path) -> None:
    call("extract", "base", "math", "-o", "v.tv.safetensors", "-q")
    table = called_json("store", "add", "my library", "数学 1/2", "v.tv.safetensors", "--codec", "int8")
    assert (table["kind"], table["name"], table["codec"]["name"]) == ("vector", "数学 1/2", "int8")
    add("toxic", "toxic")
    assert [v["name"] for v in called_json("store", "list", "my library")["vectors"]] == ["数学 1/2", "toxic"]
    call("apply", "base", "`数学 1/2` - toxic", "-o", "out", "--store", "my library")


def test_list_shows_sizes_beside_dense(here: Path) -> None:
    add("math", "math", "--codec", "sparse", "--density", "0.5")
    table = called_json("store", "list", "my library")
    assert (table["kind"], table["dense_float32"], table["dense_bfloat16"]) == ("store", 260, 130)
    assert table["base"]["name"] == "base"
    assert table["total"] == table["shared"] + table["vectors"][0]["bytes"]
    assert set(table["vectors"][0]) == {"name", "codec", "bytes", "error", "of_float32", "of_bfloat16"}
    out = call("store", "list", "my library").stdout
    for word in ("math", "sparse", "of fp32", "of bf16", "shared", "all", "dense"):
        assert word in out


def test_a_store_takes_tsv_vectors(here: Path) -> None:
    add("math", "math", "--codec", "tsv", "--density", "0.4")
    (row,) = called_json("store", "list", "my library")["vectors"]
    assert row["codec"] == "tsv"
    assert 0 < row["error"] < 1
    assert called_json("store", "show", "my library", "math")["error"]["total"] < row["error"]
    call("store", "verify", "my library")


def test_info_show_and_list_of_a_store_are_one_thing(here: Path) -> None:
    add("math", "math")
    assert called_json("info", "my library") == called_json("store", "list", "my library")
    assert call("store", "show", "my library").stdout == call("store", "list", "my library").stdout


def test_show_of_one_vector_is_what_info_says_of_it(here: Path) -> None:
    add("math", "math")
    table = called_json("store", "show", "my library", "math")
    assert (table["kind"], table["name"], table["exact"]) == ("vector", "math", True)
    assert "task vector  math" in call("store", "show", "my library", "math").stdout


def test_remove_removes(here: Path) -> None:
    add("math", "math")
    assert called_json("store", "remove", "my library", "math")["vectors"] == []
    assert list(Path("my library/vectors").iterdir()) == []


def test_verify_finds_a_flipped_byte_and_says_where(here: Path) -> None:
    add("math", "math")
    add("toxic", "toxic")
    assert called_json("store", "verify", "my library")["ok"]
    assert "2 vectors" in call("store", "verify", "my library").stdout
    (file,) = Path("my library/vectors").glob("toxic*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    result = call("store", "verify", "my library", code=1)
    assert "1 vector" in result.stdout
    assert "toxic" in result.stderr
    assert "is corrupt" in result.stderr
    assert "Fix: add 'toxic' again with --force" in result.stderr
    report = call("store", "verify", "my library", "--json", code=1)
    assert '"ok": false' in report.stdout
    assert report.stderr == ""
    assert "is corrupt" in refused("apply", "base", "toxic", "-o", "out", "--store", "my library")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "my library", "--base", "base"], ["'my library' is a store already"]),
        (["create", "math", "--base", "base"], ["'math' exists"]),
        (["add", "my library", "x", "math"], ["'math' is a tuned model", "--base BASE"]),
        (["add", "my library", "x", "math", "--base", "toxic"], ["'toxic' has the fingerprint tv1:"]),
        (["add", "my library", "", "math", "--base", "base"], ["cannot name a vector"]),
        (["add", "my library", "x", "nope", "--base", "base"], ["'nope' does not exist"]),
        (["add", "my library", "x", "my library", "--base", "base"], ["is a store, not a task vector"]),
        (["list", "nope"], ["'nope' is not a store"]),
        (["show", "my library", "mat"], ["no vector named 'mat'"]),
        (["remove", "my library", "mat"], ["no vector named 'mat'"]),
        (["verify", "math"], ["'math' is not a store"]),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(here: Path, arguments: list[str], words: list[str]) -> None:
    message = refused("store", *arguments)
    for word in words:
        assert word in message


def test_a_taken_name_needs_force(here: Path) -> None:
    add("math", "math")
    assert "--force" in refused("store", "add", "my library", "math", "toxic", "--base", "base")
    add("math", "toxic", "--force")
    call("apply", "base", "math", "-o", "out", "--store", "my library")


def test_a_vector_of_another_base_is_refused_with_both_fingerprints(here: Path) -> None:
    call("extract", "toxic", "math", "-o", "v.tv.safetensors", "-q")
    assert refused("store", "add", "my library", "x", "v.tv.safetensors").count("tv1:") == 2
