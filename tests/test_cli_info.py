"""`taskvec info`: what it says of each kind of thing, as a table and as JSON."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli_cases import adapter, call, called_json, folder, tensors

HEX = "0123456789abcdef"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base and a tuned model; we are in it."""
    folder(tmp_path / "base", tensors(0))
    folder(tmp_path / "math", tensors(1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def math(here: Path) -> str:
    """The vector of the model `math`."""
    call("extract", "base", "math", "-o", "math.tv.safetensors", "--quiet")
    return "math.tv.safetensors"


def test_info_of_a_checkpoint_as_json(here: Path) -> None:
    table = called_json("info", "base")
    largest = table.pop("largest")
    assert largest[0] == {"name": "layer.weight", "shape": [8, 4], "dtype": "BF16", "parameters": 32, "bytes": 64}
    assert table == {
        "kind": "checkpoint",
        "path": "base",
        "files": [{"name": "model.safetensors", "tensors": 5, "bytes": Path("base/model.safetensors").stat().st_size}],
        "tensors": 5,
        "parameters": 70,
        "bytes": 170,
        "dtypes": {
            "BF16": {"tensors": 4, "parameters": 65, "bytes": 130},
            "I64": {"tensors": 1, "parameters": 5, "bytes": 40},
        },
        "ties": {},
        "roles": {
            "matrix": {"tensors": 2, "parameters": 56, "bytes": 112},
            "other": {"tensors": 2, "parameters": 9, "bytes": 18},
            "skip": {"tensors": 1, "parameters": 5, "bytes": 40},
        },
        "fingerprint": None,
        "recipe": None,
    }


def test_info_computes_a_fingerprint_on_request_and_remembers_it(here: Path) -> None:
    assert "--fingerprint computes it" in call("info", "base").stdout
    fingerprint = called_json("info", "base", "--fingerprint")["fingerprint"]
    assert fingerprint.startswith("tv1:")
    assert set(fingerprint[4:]) <= set(HEX)
    assert called_json("info", "base")["fingerprint"] == fingerprint
    assert fingerprint in call("info", "base").stdout


def test_info_of_a_vector_as_json(math: str) -> None:
    table = called_json("info", math)
    assert table["kind"] == "vector"
    assert (table["exact"], table["error"]) == (True, None)
    assert (table["tensors"], table["parameters"]) == (4, 65)
    assert table["base"]["tensors"] == 5
    assert table["dense_bytes"] == {"fp32": 260, "bf16": 130}
    assert table["bytes"] == Path(math).stat().st_size
    assert table["stored"] == {"dense": 4}


def test_info_of_an_adapter(here: Path) -> None:
    adapter(here / "lora")
    table = called_json("info", "lora")
    assert (table["kind"], table["base_name"], table["rank"], table["alpha"]) == ("adapter", "org/tiny", 2, 4)
    assert (table["tensors"], table["parameters"], table["dense_bytes"]["fp32"]) == (1, 32, 128)
    out = call("info", "lora").stdout
    assert "LoRA adapter  lora" in out
    assert "org/tiny" in out


def test_info_of_an_adapter_with_whole_tensors_says_what_it_needs(here: Path) -> None:
    path = adapter(here / "lora")
    factors = load_file(path / "adapter_model.safetensors") | {"base_model.model.layer.bias": torch.zeros(8)}
    save_file(factors, path / "adapter_model.safetensors")
    table = called_json("info", "lora")
    assert table["tensors"] is None
    assert "layer.bias" in table["note"]
    assert "layer.bias" in call("info", "lora").stdout


def test_info_of_a_base_with_an_adapter(here: Path) -> None:
    adapter(here / "lora")
    assert called_json("info", "base+lora")["tensors"] == 5


def test_info_shows_ties(here: Path) -> None:
    table = tensors(0)
    save_file(table, "tied.safetensors", metadata={"format": "pt", "lm_head.weight": "head.weight"})
    assert called_json("info", "tied.safetensors")["ties"] == {"lm_head.weight": "head.weight"}
    assert "lm_head.weight = head.weight" in call("info", "tied.safetensors").stdout


def test_info_of_an_empty_file_and_of_an_empty_vector(here: Path) -> None:
    save_file({}, "empty.safetensors")
    assert called_json("info", "empty.safetensors")["parameters"] == 0
    call("info", "empty.safetensors")
    call("extract", "empty.safetensors", "empty.safetensors", "-o", "v.tv.safetensors")
    assert called_json("info", "v.tv.safetensors")["tensors"] == 0


def test_no_line_is_wider_than_the_terminal_but_for_paths(math: str) -> None:
    for what in ("base", math):
        lines = call("info", what).stdout.splitlines()
        assert max(map(len, lines)) <= 100
        assert all(line == line.rstrip() for line in lines)
