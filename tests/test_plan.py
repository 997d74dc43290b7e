"""Plans: coefficients, bytes, memory and refusals from headers alone."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import taskvec as tv
from merge_cases import MODELS, model_folders
from taskvec.errors import DestinationError, ParameterError, SchemaError
from taskvec.methods import _method
from taskvec.recipes import Plan, Recipe, costs
from taskvec.recipes.costs import Acting, Work

FLOATS = sum(torch.Size(s).numel() for s in MODELS.values())
MODEL = 4 * FLOATS + 8 * 3  # bytes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that no test changes."""
    return model_folders(tmp_path_factory.mktemp("models"))


@pytest.fixture
def drawing() -> Iterator[None]:
    """The methods of drawing_method, registered for one test."""
    before = dict(_method._methods)
    sys.modules.pop("drawing_method", None)
    importlib.import_module("drawing_method")
    yield
    _method._methods.clear()
    _method._methods.update(before)


def recipe(models: Path, method: str = "ties", inputs: Any = ("math", "code"), **fields: Any) -> Recipe:
    """A recipe on the models."""
    named = {Path(i).stem.split(".")[0]: str(models / i) for i in inputs}
    return Recipe.of(method, named, **{"base": str(models / "base"), **fields})


def row(plan: Plan, name: str) -> Any:
    """The plan of one tensor."""
    return next(t for t in plan.tensors if t.name == name)


def test_every_tensor_has_its_method_parameters_and_coefficients(models: Path) -> None:
    """For a linear method the factors of the inputs, scale included; what cannot move is copied."""
    coefficients = {"math": {"gradient": [0, 1], "layers": "model.layers.{}."}, "code": 0.5}
    plan = recipe(models, "task_arithmetic", parameters={"coefficients": coefficients}, scale=2.0).plan()
    assert [t.name for t in plan.tensors] == ["steps", *MODELS]
    found = row(plan, "model.layers.1.mlp.weight")
    assert (found.shape, found.dtype, found.role, found.method) == ((8, 12), "F32", "matrix", "task_arithmetic")
    assert found.parameters == {"coefficients": {"math": 0.5, "code": 0.5}, "normalize": False}
    assert found.coefficients == {"math": 1.0, "code": 1.0}
    assert row(plan, "model.norm.weight").role == "other"
    assert row(plan, "steps").method == "copy"
    assert row(plan, "steps").coefficients is None


def test_the_plan_is_what_the_merge_does(models: Path) -> None:
    """base + Σ coefficient · delta, with the planned coefficients, is the merged tensor."""
    given = recipe(
        models,
        "task_arithmetic",
        scale=0.7,
        parameters={"coefficients": [{"filter": "*.0.*", "value": [0.2, 0.9]}, {"value": 0.4}]},
    )
    merged, base = given.build(), tv.Checkpoint.open(models / "base")
    deltas = {n: tv.Checkpoint.open(models / n) - base for n in ("math", "code")}
    for tensor in given.plan().tensors:
        if tensor.coefficients is not None:
            moved = sum(c * deltas[t][tensor.name].double() for t, c in tensor.coefficients.items())
            torch.testing.assert_close(merged[tensor.name].double(), base[tensor.name] + moved, rtol=0, atol=1e-6)


def test_bytes_are_those_of_the_files(models: Path, tmp_path: Path) -> None:
    """Each file once; the output in its dtype; hashes only while they are not known."""
    given = recipe(models, inputs=("chat", "math.tv.safetensors"), dtype="bfloat16")
    plan = given.plan()
    assert (plan.folds, plan.passes) == (2, 3)
    assert plan.bytes_in == 2 * MODEL + (models / "math.tv.safetensors").stat().st_size
    assert plan.bytes_out == 2 * FLOATS + 8 * 3
    assert plan.hashed == MODEL  # the base was hashed when the store was made
    given.run(tmp_path / "out")
    assert given.plan().hashed == 0
    assert plan.bytes_out == sum(s.nbytes for s in tv.Checkpoint.open(tmp_path / "out").specs.values())


def test_an_adapter_counts_what_it_holds(models: Path) -> None:
    """Its two factors; tensors that it does not move are copied."""
    plan = recipe(models, "average", inputs=("adapter",)).plan()
    assert plan.bytes_in == MODEL + 4 * 2 * (8 + 12)
    assert [t.name for t in plan.tensors if t.method != "copy"] == ["model.layers.0.mlp.weight"]


def test_no_tensor_is_read(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a plan nor by a build."""
    from taskvec.checkpoint import files

    def fail(*_: object) -> None:
        raise AssertionError("a tensor was read")

    sources = [c for c in vars(files).values() if isinstance(c, type) and hasattr(c, "bits")]
    assert sources
    for kind in sources:
        monkeypatch.setattr(kind, "bits", fail)
    recipe(models, inputs=("chat", "code", "math.tv.safetensors")).plan()
    recipe(models).build()


@pytest.mark.usefixtures("drawing")
def test_matrix_methods_name_the_other_one(models: Path, tmp_path: Path) -> None:
    """By the layout's roles; its time is not predicted."""
    (tmp_path / "roles.yml").write_text('roles:\n  "lm_head.weight": other\n  "model.norm.weight": skip\n')
    plan = recipe(models, "matrix_test", layout=str(tmp_path / "roles.yml"), parameters={"rank": 2}).plan()
    assert row(plan, "model.layers.0.mlp.weight").method == "matrix_test"
    assert row(plan, "model.layers.0.mlp.weight").parameters == {"rank": 2}
    assert row(plan, "lm_head.weight").method == "average"
    assert row(plan, "lm_head.weight").coefficients == {"math": 0.5, "code": 0.5}
    assert row(plan, "model.norm.weight").method == "copy"
    assert plan.seconds is None
    assert "decomposes" in plan.assumptions["time"]


@pytest.mark.usefixtures("drawing")
def test_dialect_and_seed_are_parameters_of_methods_that_have_them(models: Path) -> None:
    """Given beside the parameters or among them, not both."""
    beside = recipe(models, "drawing_test", seed=3, dialect="mergekit").plan()
    assert row(beside, "lm_head.weight").parameters == {"density": 0.5, "dialect": "mergekit", "seed": 3}
    among = recipe(models, "drawing_test", parameters={"seed": 3, "dialect": "mergekit"}).plan()
    assert among.tensors == beside.tensors
    with pytest.raises(ParameterError, match="seed is given twice"):
        recipe(models, "drawing_test", seed=3, parameters={"seed": 3}).plan()
    with pytest.raises(ParameterError, match=r"dialect='peft' is not one of paper, mergekit"):
        recipe(models, "drawing_test", dialect="peft").plan()
    assert recipe(models, "average", dialect="paper").plan().method == "average"
    with pytest.raises(ParameterError, match="average draws no random numbers") as refused:
        recipe(models, "average", seed=3).plan()
    assert refused.value.fix == "leave seed out."


@pytest.mark.usefixtures("drawing")
def test_points_are_merged_as_they_are(models: Path, tmp_path: Path) -> None:
    """Without a base; displacements need one; there is no scale."""
    points = {n: str(models / n) for n in ("math", "code")}
    given = Recipe.of("point_test", points, parameters={"t": 0.25})
    plan, merged = given.plan(), given.build()
    assert plan.bytes_in == 2 * MODEL
    first, last = (tv.Checkpoint.open(models / n)["lm_head.weight"] for n in ("math", "code"))
    torch.testing.assert_close(merged["lm_head.weight"], 0.75 * first + 0.25 * last)
    mixed = given.changed(inputs={"math": str(models / "math.tv.safetensors"), "code": str(models / "code")})
    with pytest.raises(ParameterError, match=r"the input 'math' .* is a displacement, and there is no base"):
        mixed.plan()
    torch.testing.assert_close(
        mixed.changed(base=str(models / "base")).build()["lm_head.weight"], merged["lm_head.weight"]
    )
    with pytest.raises(ParameterError, match="point_test takes no base, and no input starts from it"):
        given.changed(base=str(models / "base")).plan()
    with pytest.raises(ParameterError, match="merges points, which have no scale"):
        given.changed(scale=0.5).plan()
    given.run(tmp_path / "out")
    table = json.loads(tv.Checkpoint.open(tmp_path / "out").source.home.metadata["model.safetensors"]["taskvec_recipe"])  # type: ignore[union-attr]
    assert table["method"] == "point_test"
    assert {n: r["name"] for n, r in table["inputs"].items()} == {"math": "math", "code": "code"}


def test_a_plan_is_json(models: Path, tmp_path: Path) -> None:
    """Complete, and saved in one step."""
    plan = recipe(models).plan(threads=3)
    table = json.loads(plan.to_json())
    assert table["tensors"][1]["name"] == "lm_head.weight"
    assert table["recipe"]["inputs"].keys() == {"math", "code"}
    assert table["threads"] == 3
    assert json.loads(plan.save(tmp_path / "plan.json").read_text()) == table


def test_destinations_that_would_fail_are_refused(models: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """What exists, what has no folder, what is too small, what cannot be a file; nothing is written."""
    given = recipe(models)
    (tmp_path / "there").mkdir()
    with pytest.raises(DestinationError, match="exists already"):
        given.plan(tmp_path / "there")
    assert given.plan(tmp_path / "there", force=True)
    with pytest.raises(DestinationError, match=r"the folder '.*nowhere' does not exist"):
        given.plan(tmp_path / "nowhere" / "out")
    with pytest.raises(ParameterError, match="names a single file, and the base is a folder"):
        given.plan(tmp_path / "out.safetensors")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(DestinationError, match="the disk has 100 free"):
        given.plan(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]


def test_what_headers_cannot_tell_is_said(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base whose fingerprint is not known yet cannot be compared; when it is, it is."""
    monkeypatch.setenv("TASKVEC_CACHE", str(tmp_path))
    given = recipe(models, "average", inputs=("other.tv.safetensors",))
    assert "whether the vectors were cut from this base" in given.plan().unchecked[0]
    tv.Checkpoint.open(models / "base").fingerprint()
    with pytest.raises(SchemaError, match="was cut from the base tv1:"):
        given.plan()


def work(method: str, numel: int, *, tasks: int = 2, threads: int = 2) -> Work:
    """Ten tensors of one size."""
    from taskvec.checkpoint.source import TensorSpec
    from taskvec.ops.dtypes import dtype_of

    chosen = tv.methods.get(method)
    folds = chosen.folds_for(chosen.bind({}, [str(i) for i in range(tasks)]))
    acting = Acting(TensorSpec((numel,), dtype_of("bfloat16")), chosen, "element", linear=chosen.weigh is not None)
    return Work([acting] * 10, folds, tasks, threads, 0)


def test_predicted_memory_does_not_grow_with_the_model() -> None:
    """It grows with tasks and threads; for an element-wise method not beyond 0.4 GiB at 3 tasks."""
    small, large = (costs.peak_bytes(work("ties", n, tasks=3)) for n in (1 << 22, 1 << 32))
    assert small == large < 0.4 * 2**30
    assert costs.peak_bytes(work("ties", 1 << 22, tasks=8)) > small
    assert costs.peak_bytes(work("ties", 1 << 22, threads=8)) > small
    assert costs.peak_bytes(work("average", 1 << 22)) < small


def test_predicted_time_grows_with_work() -> None:
    """More entries, more folds, fewer threads."""
    once, thrice = costs.seconds(work("average", 1 << 28)), costs.seconds(work("ties", 1 << 28))
    assert once is not None
    assert thrice is not None
    assert once < thrice < (costs.seconds(work("ties", 1 << 28, threads=1)) or 0)
