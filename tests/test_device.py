"""Methods on another device than the default: the same values, the same metadata, and a refusal where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import oracles
import taskvec as tv
from cli_cases import process
from elsewhere import Elsewhere
from merge_cases import model_folders
from taskvec import methods
from taskvec.engine.merge import Merged
from taskvec.engine.points import MergedSource
from taskvec.errors import ParameterError
from taskvec.testing import evaluate, fit, named
from taskvec.testing.evaluation import check_close, spaces

NAMED = named()
STACKED = [n for n in methods.names() if methods.get(n).gram is None]
CASES = [(name, index) for name in STACKED for index in range(len(oracles.settings(name)))]
NO_DEVICES = ["cuda:99", "gpu", "meta", ""]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    model_folders(root)
    return root


@pytest.mark.parametrize("case", ["several_scales", "beyond_a_block"])
@pytest.mark.parametrize(("name", "index"), CASES)
def test_a_device_gives_what_the_compiled_loops_give(name: str, index: int, case: str) -> None:
    options = oracles.settings(name)[index]
    for points in spaces(methods.get(name)):
        rows = fit(name, NAMED[case], points=points)
        expected = evaluate(name, rows, points=points, **options)
        found = evaluate(name, rows, points=points, device="cpu:0", **options)
        check_close(found, expected, rows, what=f"{name} on cpu:0", rtol=1e-7 if points else 1e-13)


@pytest.mark.parametrize(("name", "index"), CASES)
def test_a_method_mixes_no_devices(name: str, index: int) -> None:
    """Whatever it makes lies where its inputs do, and it gives there what it gives here."""
    method, options = methods.get(name), oracles.settings(name)[index]
    shapes = {"w": (6, 8), "norm": (8,)}
    for points in spaces(method):
        count = max(method.least, min(2, method.most or 2))
        tensors = [
            {n: torch.randn(s, generator=torch.Generator().manual_seed(seed)) for n, s in shapes.items()}
            for seed in range(count + 1)
        ]
        merging = merging_of(name, tensors, points=points, options=options)
        merging.fold()
        if merging.weights("w") is not None:
            continue
        here = {n: merging.block(n, 0, torch.Size(s).numel()) for n, s in shapes.items()}
        merging._device = Elsewhere()
        for n, expected in here.items():
            np.testing.assert_allclose(merging.block(n, 0, expected.size), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("mixed", [lambda x: x + torch.from_numpy(np.ones(3)), lambda x: x.numpy()])
def test_the_device_of_these_tests_notices_what_a_device_would(mixed: Any) -> None:
    with Elsewhere(), pytest.raises(AssertionError, match=r"combines tensors|not on the CPU"):
        mixed(torch.zeros(3))


def merging_of(name: str, tensors: list[dict[str, torch.Tensor]], *, points: bool, options: dict[str, Any]) -> Any:
    options = {k: v[: len(tensors) - 1] if isinstance(v, list) else v for k, v in options.items()}
    if not points:
        leaf = tv.merge(name, [tv.TaskVector.from_tensors(t) for t in tensors[1:]], **options).single()
        assert isinstance(leaf, Merged)
        return leaf.merging
    base, *inputs = (tv.Checkpoint.from_tensors(t) for t in tensors)
    source = tv.merge(name, inputs, base=base if methods.get(name).base == "required" else None, **options).source
    assert isinstance(source, MergedSource)
    return source.merging


@pytest.mark.parametrize("device", NO_DEVICES)
def test_a_device_that_is_not_here_is_refused(device: str, models: Path) -> None:
    base, math = (tv.Checkpoint.open(models / name) for name in ("base", "math"))
    with pytest.raises(ParameterError, match=f"the device '{device}' cannot be used here: .*[^.]\\.\n") as vector:
        tv.merge("ties", [math - base], device=device)
    with pytest.raises(ParameterError, match=f"the device '{device}' cannot be used here: "):
        tv.merge("linear", [base, math], device=device)
    assert vector.value.fix == "leave device out (--device), or set it to cpu."


def test_a_recipe_names_the_place_of_a_device_that_is_not_here(models: Path) -> None:
    file = models / "device.yml"
    file.write_text("method: ties\nbase: base\ninputs: [math]\ndevice: cuda:99\n")
    for use in (tv.Recipe.read(file).build, tv.Recipe.read(file).plan):
        with pytest.raises(ParameterError, match=r"device\.yml', line 4, column 9: the device 'cuda:99'"):
            use()


def test_the_command_refuses_a_device_before_it_writes(models: Path, tmp_path: Path) -> None:
    arguments = ["--method", "ties", "--base", models / "base", models / "math", "--device", "cuda:99"]
    result = process("merge", *arguments, "-o", tmp_path / "out")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: the device 'cuda:99' cannot be used here: ")
    assert result.stderr.endswith("\nFix: leave device out (--device), or set it to cpu.\n")
    assert list(tmp_path.iterdir()) == []


def test_the_device_is_not_in_the_output(models: Path, tmp_path: Path) -> None:
    inputs = [models / "math", models / "code"]
    recipe = {"method": "dare_ties", "inputs": [str(p) for p in inputs], "base": str(models / "base")}
    tv.Recipe.from_data(recipe).run(tmp_path / "cpu")
    tv.Recipe.from_data({**recipe, "device": "cpu:0"}).run(tmp_path / "other")
    for name in ("README.md", "config.json"):
        assert (tmp_path / "cpu" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    headers = []
    for folder in ("cpu", "other"):
        with safe_open(tmp_path / folder / "model.safetensors", "pt") as file:
            headers.append(file.metadata())
    assert headers[0] == headers[1]
    first, second = (tv.Checkpoint.open(tmp_path / folder) for folder in ("cpu", "other"))
    for name in first.names():
        torch.testing.assert_close(first[name], second[name], rtol=1e-6, atol=0.0)


def test_a_run_is_not_resumed_on_another_device(models: Path) -> None:
    base, math = (tv.Checkpoint.open(models / name) for name in ("base", "math"))
    ours, same, other = (tv.merge("ties", [math - base], device=d).single() for d in ("cpu", "cpu", "cpu:0"))
    assert ours is not None
    assert same is not None
    assert other is not None
    assert ours.inputs() == same.inputs() != other.inputs()
