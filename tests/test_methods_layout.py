"""What is a matrix: fused ones are cut where the layout says so, and those smaller than the tasks are many are not."""

import numpy as np
import pytest
import torch

import taskvec as tv
from merge_cases import save_model
from taskvec import methods
from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.source import TensorSpec
from taskvec.errors import ConvergenceError, SchemaError, UnknownName
from taskvec.ops.dtypes import DTYPES

ON_MATRICES = [n for n in methods.names() if methods.get(n).otherwise is not None]
TRANSFORMS = [n for n in tv.transforms.names() if tv.transforms.get(n).method.otherwise is not None]
AXES = {"rows": 0, "columns": 1}


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape)).float()


def vectors(tensors):
    """Tensor name -> (task, *shape), as task vectors."""
    tasks = len(next(iter(tensors.values())))
    return [tv.TaskVector.from_tensors({n: x[i].contiguous() for n, x in tensors.items()}) for i in range(tasks)]


def layout(tmp_path, shapes, text):
    file = tmp_path / "layout.yml"
    file.write_text(text)
    return Layout.of({n: TensorSpec(shape, DTYPES["F32"]) for n, shape in shapes.items()}, file)


@pytest.fixture(params=AXES)
def fused(request, tmp_path):
    """A fused matrix beside another, their layout, and the same with three matrices for one."""
    axis = AXES[request.param]
    parts, other = [normal(3, 6, 8, seed=i) for i in range(3)], normal(3, 5, 7)
    whole = torch.cat(parts, 1 + axis)
    shapes = {"qkv": tuple(whole.shape[1:]), "w": (5, 7)}
    cut = layout(tmp_path, shapes, f'splits:\n  "qkv": {request.param} 3\n')
    return vectors({"qkv": whole, "w": other}), cut, vectors({**dict(zip("qkv", parts, strict=True)), "w": other}), axis


def close(a, b):
    return torch.allclose(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("name", ON_MATRICES)
def test_a_fused_matrix_is_merged_as_those_that_it_consists_of(name, fused):
    whole, cut, apart, axis = fused
    found, expected = tv.merge(name, whole, layout=cut), tv.merge(name, apart)
    assert close(found["qkv"], torch.cat([expected[n] for n in "qkv"], axis))
    assert torch.equal(found["w"], expected["w"])
    assert not close(tv.merge(name, whole)["qkv"], found["qkv"]), "the layout makes no difference"


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_fused_matrix_is_transformed_as_those_that_it_consists_of(name, fused):
    whole, cut, apart, axis = fused
    found, expected = tv.transform(name, whole, layout=cut), tv.transform(name, apart)
    for task in found:
        assert close(found[task]["qkv"], torch.cat([expected[task][n] for n in "qkv"], axis))


@pytest.mark.parametrize("inner", ["star", "dare_ties", "ties"])
def test_boosting_by_one_is_the_method_itself_for_a_fused_matrix(inner, fused):
    whole, cut, _, _ = fused
    boosted = tv.merge("subspace_boosting", whole, layout=cut, method=inner, beta=1.0)
    assert torch.equal(boosted["qkv"], tv.merge(inner, whole, layout=cut)["qkv"])


def test_the_matrices_of_a_fused_one_draw_numbers_of_their_own(tmp_path):
    whole = normal(2, 6, 8).repeat(1, 3, 1)
    cut = layout(tmp_path, {"qkv": (18, 8)}, 'splits:\n  "qkv": rows 3\n')
    found = tv.merge("knots", vectors({"qkv": whole}), layout=cut, method="dare_linear", density=0.5)["qkv"]
    assert not close(found[:6], found[6:12])


@pytest.mark.parametrize("name", ON_MATRICES)
def test_a_matrix_with_fewer_rows_than_tasks_is_no_matrix(name):
    tensors = {"few": normal(4, 3, 20), "enough": normal(4, 4, 20)}
    found = tv.merge(name, vectors(tensors))
    plain = tv.merge(
        "task_arithmetic" if name == "subspace_boosting" else methods.get(name).otherwise, vectors(tensors)
    )
    assert torch.equal(found["few"], plain["few"])
    assert not close(found["enough"], plain["enough"])


def test_the_rows_of_each_of_the_fused_matrices_count(tmp_path):
    given = vectors({"qkv": normal(4, 9, 20)})
    cut = layout(tmp_path, {"qkv": (9, 20)}, 'splits:\n  "qkv": rows 3\n')
    assert torch.equal(tv.merge("iso_c", given, layout=cut)["qkv"], tv.merge("average", given)["qkv"])
    assert not close(tv.merge("iso_c", given)["qkv"], tv.merge("average", given)["qkv"])


def test_plans_and_recipes_say_what_was_cut_and_which_method_acts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("base", "math", "code", "law")):
        save_model(tmp_path / name, {"a.in_proj_weight": normal(24, 8, seed=i), "types": normal(2, 8, seed=i)})
    (tmp_path / "layout.yml").write_text("splits: fused-qkv\n")
    recipe = tv.Recipe.of("iso_c", ["math", "code", "law"], base="base", layout="layout.yml")
    assert {t.name: t.method for t in recipe.plan().tensors} == {"a.in_proj_weight": "iso_c", "types": "average"}
    recipe.run("cut")
    tv.Recipe.of("iso_c", ["math", "code", "law"], base="base").run("whole")
    for folder, expected in (("cut", True), ("whole", False)):
        known = (tmp_path / folder / "README.md").read_text("utf-8")
        assert ("rows 3" in known) is expected
    base = tv.Checkpoint.open("base")
    given = {n: tv.Checkpoint.open(n) - base for n in ("math", "code", "law")}
    cut = base.layout("layout.yml")
    leaf, other = (tv.merge("iso_c", given, layout=x).single() for x in (cut, None))
    assert leaf.recipe(blank=True)["splits"] == {"a.in_proj_weight": "rows 3"}
    assert leaf.inputs() != other.inputs(), "a run is not resumed under another layout"
    assert "splits" not in tv.merge("ties", given, layout=cut).single().recipe(blank=True)
    assert torch.equal(
        tv.Checkpoint.open("cut")["a.in_proj_weight"], (base + tv.merge("iso_c", given, layout=cut))["a.in_proj_weight"]
    )


def test_fused_and_separate_matrices_do_not_merge():
    fused, apart = {"qkv": normal(18, 6)}, {n: normal(6, 6) for n in ("q_proj", "k_proj", "v_proj")}
    base, other = tv.Checkpoint.from_tensors(fused), tv.Checkpoint.from_tensors(apart)
    with pytest.raises(SchemaError, match="q_proj"):
        other - base
    given = [tv.Checkpoint.from_tensors({n: x + 1 for n, x in b.items()}) for b in (fused, apart)]
    with pytest.raises(SchemaError, match="combine vectors of one architecture"):
        tv.merge("iso_c", [given[0] - base, given[1] - other])


def test_the_layout_of_another_model_is_refused(tmp_path):
    given = vectors({"qkv": normal(2, 7, 6)})
    cut = layout(tmp_path, {"qkv": (6, 6)}, 'splits:\n  "qkv": rows 3\n')
    with pytest.raises(SchemaError, match=r"tensor 'qkv' is F32\[7, 6\], and F32\[6, 6\] in the layout"):
        tv.merge("iso_c", given, layout=cut)
    with pytest.raises(UnknownName, match="no tensor named 'qkv' in the layout"):
        tv.merge("iso_c", given, layout=layout(tmp_path, {"w": (6, 6)}, ""))


@pytest.mark.parametrize("name", ON_MATRICES)
def test_a_matrix_whose_decomposition_does_not_converge_takes_another_route_or_is_named(name, monkeypatch):
    def fail(*_, **__):
        raise torch.linalg.LinAlgError("it did not converge")

    given = vectors({"w": normal(3, 12, 2) @ normal(3, 2, 20), "v": normal(3, 20, 2) @ normal(3, 2, 12)})
    parameters = {"ridge": 0.0} if name == "wudi" else {}
    expected = tv.merge(name, given, **parameters)
    monkeypatch.setattr(torch.linalg, "svd", fail)
    found = tv.merge(name, given, **parameters)
    for n in expected.names():
        assert close(found[n], expected[n])
    monkeypatch.setattr(torch.linalg, "eigh", fail)
    with pytest.raises(ConvergenceError, match=r"tensor 'w'.*: .* does not converge"):
        tv.merge(name, given, **parameters)["w"]
