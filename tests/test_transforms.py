"""Transforms: what they promise, lazily, through `tv.transform`, recipes and the command line."""

import numpy as np
import pytest
import torch

import taskvec as tv
from cli_cases import call, refused
from elsewhere import Elsewhere
from merge_cases import save_model
from taskvec.errors import ParameterError, SchemaError, SpaceError, UnknownName
from taskvec.methods._parameters import PerTensor
from taskvec.ops.whitening import decorrelated
from taskvec.testing import named
from taskvec.transforms import _transform
from taskvec.transforms._transform import vector_transform

NAMED = named()
CASES = [(name, case) for name in tv.transforms.names() for case in NAMED]


def vectors(rows, names="abcdefghijkl"):
    tasks = len(next(iter(rows.values())))
    tensors = [{n: torch.from_numpy(np.array(x[i])) for n, x in rows.items()} for i in range(tasks)]
    return {names[i]: tv.TaskVector.from_tensors(tensors[i]) for i in range(tasks)}


def arrays(found):
    return {task: {n: v[n].numpy().astype(float) for n in v.names()} for task, v in found.items()}


def assert_close(found, expected, scale=1.0):
    for task, tensors in expected.items():
        for name, x in tensors.items():
            size = 1e-6 * np.abs(scale * x).max(initial=0.0) + 1e-38
            np.testing.assert_allclose(found[task][name], scale * x, rtol=0, atol=size)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_transform_obeys_its_laws(name, case):
    """One vector for each, of the same shapes; zero, homogeneous and independent of the order where it says so."""
    laws, rows = tv.transforms.get(name).laws, NAMED[case]
    given = vectors(rows)
    found = arrays(tv.transform(name, given))
    assert list(found) == list(given)
    assert all(x.shape == rows[n].shape[1:] and np.isfinite(x).all() for f in found.values() for n, x in f.items())
    assert laws == {"permutation", "homogeneous", "zero"}, "test other sets of laws here"
    zero = arrays(tv.transform(name, vectors({n: 0 * x for n, x in rows.items()})))
    assert not any(x.any() for f in zero.values() for x in f.values())
    assert_close(arrays(tv.transform(name, vectors({n: -2 * x for n, x in rows.items()}))), found, -2.0)
    size = max(np.abs(x).max(initial=0.0) for x in rows.values())
    back = arrays(tv.transform(name, dict(reversed(given.items()))))
    for task, tensors in found.items():
        for n, x in tensors.items():
            np.testing.assert_allclose(back[task][n], x, rtol=0, atol=1e-5 * size)


def polar(x):
    p, _, qh = np.linalg.svd(x, full_matrices=False)
    return p @ qh


def tsv_parts(x):
    """U⊥[:, t] diag(s_t) V⊥[:, t]ᵀ of every task, by NumPy."""
    rank = min(x.shape[1:]) // len(x)
    spectra = [np.linalg.svd(d.astype(float), full_matrices=False) for d in x]
    left = polar(np.concatenate([u[:, :rank] for u, _, _ in spectra], axis=1))
    right = polar(np.concatenate([vh[:rank].T for _, _, vh in spectra], axis=1))
    cuts = [slice(t * rank, (t + 1) * rank) for t in range(len(x))]
    return [(left[:, c] * s[:rank]) @ right[:, c].T for c, (_, s, _) in zip(cuts, spectra, strict=True)]


@pytest.mark.parametrize("shape", [(3, 12, 20), (4, 30, 9), (2, 8, 8), (1, 6, 5)])
def test_orthogonalized_vectors_are_the_parts_of_tsv_merge(shape):
    x = normal(*shape)
    found = arrays(tv.transform("orthogonalize", vectors({"w": x})))
    for part, expected in zip(found.values(), tsv_parts(x), strict=True):
        np.testing.assert_allclose(part["w"], expected, atol=1e-6 * np.abs(x).max())


def test_the_parts_are_orthogonal_and_keep_the_singular_values():
    x = normal(4, 20, 30)
    parts = tv.transform("orthogonalize", vectors({"w": x}))
    for a, one in parts.items():
        for b, other in parts.items():
            assert a == b or abs(one.dot(other)) < 1e-5 * one.norm() * other.norm()
    kept = np.sort([s for d in x for s in np.linalg.svd(d, compute_uv=False)[:5]])[::-1]
    total = sum(parts.values())["w"].numpy()
    np.testing.assert_allclose(np.linalg.svd(total, compute_uv=False), kept, rtol=1e-5)


def test_low_rank_tasks_that_share_no_direction_stay_as_they_are():
    q, p = (np.linalg.qr(normal(n, 6, seed=9))[0] for n in (12, 20))
    x = np.stack([(q[:, c] * [3.0, 1.0]) @ p[:, c].T for c in (slice(0, 2), slice(2, 4), slice(4, 6))])
    for part, expected in zip(tv.transform("orthogonalize", vectors({"w": x.astype("f4")})).values(), x, strict=True):
        np.testing.assert_allclose(part["w"], expected, atol=1e-6)


def test_one_task_keeps_its_matrix():
    x = normal(1, 7, 9)
    np.testing.assert_allclose(tv.transform("orthogonalize", vectors({"w": x}))["a"]["w"], x[0], atol=1e-6)


def test_what_is_no_matrix_is_shared_so_that_the_sum_is_the_average():
    """Biases, scalars, kernels, empty tensors, and matrices with fewer rows than tasks."""
    shapes = {"b": (7,), "s": (), "k": (2, 3, 2, 2), "e": (0, 4), "row": (1, 9), "small": (2, 9)}
    given = vectors({n: normal(3, *shape) for n, shape in shapes.items()})
    found, mean = sum(tv.transform("orthogonalize", given).values()), tv.merge("average", given)
    for name in shapes:
        np.testing.assert_allclose(found[name], mean[name], rtol=1e-6, atol=1e-7)


def test_equal_tasks_get_equal_shares_and_a_zero_task_nothing():
    x = normal(1, 12, 20)
    equal = tv.transform("orthogonalize", vectors({"w": np.repeat(x, 3, 0)}))
    cut = np.linalg.svd(x[0].astype(float), full_matrices=False)
    cut = (cut[0][:, :4] * cut[1][:4]) @ cut[2][:4]
    for part in equal.values():
        np.testing.assert_allclose(part["w"], cut / 3, atol=1e-6)
    one = tv.transform("orthogonalize", vectors({"w": np.concatenate([x, 0 * x])}))
    assert one["b"]["w"].abs().max() == 0
    assert one["a"]["w"].abs().max() > 0


def test_the_tolerance_decides_whether_nearly_equal_tasks_share():
    x = normal(1, 12, 20)
    near = torch.from_numpy(np.concatenate([x, x + 1e-4 * normal(1, 12, 20, seed=1)]))
    apart, shared = (decorrelated(near, 6, tolerance=t).parts().sum(0) for t in (1e-6, 1e-2))
    assert apart.norm() > 1.3 * shared.norm()


def test_a_layout_decides_what_is_a_matrix():
    given = vectors({"w": normal(2, 6, 5)})
    layout = tv.Checkpoint.from_tensors({"w": torch.zeros(6, 5)}).layout()
    asked = tv.transform("orthogonalize", given, layout=layout)["a"]["w"]
    assert torch.equal(asked, tv.transform("orthogonalize", given)["a"]["w"])
    assert not torch.allclose(asked, given["a"]["w"] / 2, atol=1e-3)


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_pruning_keeps_the_largest_entries(scope):
    rows = {"w": normal(2, 9, 7), "b": 0.1 * normal(2, 11), "s": normal(2)}
    given = vectors(rows)
    found = arrays(tv.transform("magnitude_prune", given, density={"a": 0.1, "b": 0.6}, scope=scope))
    for i, (task, density) in enumerate((("a", 0.1), ("b", 0.6))):
        groups = [list(rows)] if scope == "model" else [[n] for n in rows]
        for group in groups:
            flat = np.concatenate([rows[n][i].ravel() for n in group])
            bar = np.sort(np.abs(flat))[-max(1, int(np.ceil(density * flat.size)))]
            for n in group:
                expected = np.where(np.abs(rows[n][i]) >= bar, rows[n][i], 0)
                np.testing.assert_array_equal(found[task][n], expected.astype(float))


def test_pruning_takes_one_value_a_task_and_a_tensor():
    given = vectors({"w": normal(2, 100), "v": normal(2, 100, seed=1)})
    by_tensor = PerTensor((("w", [0.1, 0.2]),), 1.0)
    found = tv.transform("magnitude_prune", given, density=by_tensor, scope="tensor")
    assert [int((found[t][n] != 0).sum()) for t in "ab" for n in "wv"] == [10, 100, 20, 100]
    with pytest.raises(ParameterError, match="differs from tensor to tensor"):
        tv.transform("magnitude_prune", given, density=by_tensor)["a"]["w"]


def test_a_transform_is_lazy_and_reads_in_any_pieces():
    """A tensor larger than a block, read whole, in parts that overlap, and after the others were read."""
    given = vectors({"w": normal(2, 400, 300), "v": normal(2, 200_000)})
    for name in tv.transforms.names():
        found = tv.transform(name, given)
        whole = {t: {n: found[t][n].numpy() for n in ("w", "v")} for t in found}
        again = tv.transform(name, given, threads=1)
        for start, stop in ((0, 10), (65_000, 120_000), (5, 70_000)):
            for task in ("b", "a"):
                for n in ("w", "v"):
                    part = again[task].values(n, start, stop)
                    np.testing.assert_array_equal(part.astype(np.float32), whole[task][n].ravel()[start:stop])


def test_matrices_are_held_until_every_task_was_read_and_not_longer():
    given = vectors({f"w{i}": normal(2, 6, 5, seed=i) for i in range(9)})
    found = tv.transform("orthogonalize", given, threads=1)
    rows = found["a"].terms[0][1]._rows
    for i in range(9):
        found["a"][f"w{i}"]
    assert list(rows._held) == ["w7", "w8"], "one a worker, and one more"
    found["b"]["w7"], found["b"]["w8"]
    assert not rows._held


@pytest.mark.parametrize("name", tv.transforms.names())
def test_a_transform_runs_on_the_device_that_is_asked_for(name):
    given = vectors({"w": normal(3, 12, 20), "b": normal(3, 7)})
    expected = arrays(tv.transform(name, given))
    assert_close(arrays(tv.transform(name, given, device="cpu:0")), expected)
    with pytest.raises(ParameterError, match="the device 'cuda:99' cannot be used here"):
        tv.transform(name, given, device="cuda:99")
    found = tv.transform(name, given)
    for vector in found.values():
        leaf = vector.single()
        leaf._merged.merging.fold()
        leaf._merged.merging._device = Elsewhere()
    assert_close(arrays(found), expected)


def test_transforms_chain_and_merge():
    given = vectors({"w": normal(3, 30, 40)})
    pruned = tv.transform("magnitude_prune", given, density=0.5)
    assert tv.transform("orthogonalize", pruned)["a"]["w"].norm() > 0
    twice = tv.merge("ties", tv.transform("magnitude_prune", given, density=0.2), density=1.0)
    assert torch.equal(twice["w"], tv.merge("ties", given, density=0.2)["w"])


def test_names_are_found_and_unknown_ones_are_not():
    assert {"magnitude_prune", "orthogonalize"} <= set(tv.transforms.names())
    assert tv.transforms.get("orthogonalize").summary.endswith(".")
    with pytest.raises(UnknownName, match=r"no transform is named 'orthogonalise'.*\n.*'orthogonalize'"):
        tv.transform("orthogonalise", vectors({"w": normal(2, 3, 3)}))


def test_a_transform_is_registered_once_and_declares_laws_that_exist(monkeypatch):
    monkeypatch.setattr(_transform, "_transforms", dict(_transform._transforms))

    def halve(deltas, *, by: float = 2.0):
        """Divide."""
        return deltas / by

    vector_transform(source="here", alone=True, laws={"zero"})(halve)
    x = normal(2, 5)
    assert torch.equal(tv.transform("halve", vectors({"w": x}))["b"]["w"], torch.from_numpy(x[1]) / 2)
    with pytest.raises(ParameterError, match="a transform named 'halve' exists already"):
        vector_transform(source="here")(halve)
    with pytest.raises(ParameterError, match="'honesty' is not a law of transforms"):
        vector_transform(source="here", laws={"honesty"})(halve)


def test_what_a_transform_cannot_take_is_refused():
    point = tv.Checkpoint.from_tensors({"w": torch.zeros(2, 2)})
    with pytest.raises(SpaceError, match="input '0' of orthogonalize is a Checkpoint"):
        tv.transform("orthogonalize", [point])
    with pytest.raises(ParameterError, match="needs at least one input"):
        tv.transform("orthogonalize", {})
    with pytest.raises(ParameterError, match="magnitude_prune has no parameter 'dens'"):
        tv.transform("magnitude_prune", vectors({"w": normal(2, 3)}), dens=0.1)
    with pytest.raises(ParameterError, match=r"outside \(0, 1\]"):
        tv.transform("magnitude_prune", vectors({"w": normal(2, 3)}), density=0)
    other = {**vectors({"w": normal(1, 3, 3)}), "x": tv.TaskVector.from_tensors({"w": torch.zeros(3, 4)})}
    with pytest.raises(SchemaError, match="tensor 'w' is"):
        tv.transform("orthogonalize", other)


@pytest.fixture
def models(tmp_path, monkeypatch):
    shapes = {"layer.w": (12, 20), "layer.b": (12,)}
    for i, name in enumerate(("base", "math", "code")):
        save_model(tmp_path / name, {n: torch.from_numpy(normal(*s, seed=i)) for n, s in shapes.items()})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_applies_transforms_in_order_and_remembers_them(models):
    text = "method: task_arithmetic\nbase: base\ninputs: [math, code]\ntransforms:\n"
    text += "  - magnitude_prune: {density: 0.5, scope: tensor}\n  - orthogonalize\n"
    (models / "r.yml").write_text(text)
    recipe = tv.Recipe.read("r.yml")
    assert tv.Recipe.from_data(recipe.to_dict()).transforms == recipe.transforms
    assert recipe.to_dict()["transforms"] == [{"magnitude_prune": {"density": 0.5, "scope": "tensor"}}, "orthogonalize"]
    base = tv.Checkpoint.open("base")
    given = {n: tv.Checkpoint.open(n) - base for n in ("math", "code")}
    pruned = tv.transform("magnitude_prune", given, density=0.5, scope="tensor")
    expected = base + tv.merge("task_arithmetic", tv.transform("orthogonalize", pruned))
    recipe.run("out")
    written = tv.Checkpoint.open("out")
    for name in written.names():
        assert torch.equal(written[name], expected[name])
    about = (models / "out" / "README.md").read_text("utf-8")
    assert "orthogonalize" in about
    assert "magnitude_prune" in about
    assert any("transforms take" in line for line in recipe.plan().unchecked)


def test_the_command_line_applies_them(models):
    options = ["--method", "task_arithmetic", "--base", "base", "math", "code"]
    call("merge", *options, "--transform", "magnitude_prune: {density: 0.5}", "-o", "out")
    base = tv.Checkpoint.open("base")
    given = {n: tv.Checkpoint.open(n) - base for n in ("math", "code")}
    expected = base + tv.merge("task_arithmetic", tv.transform("magnitude_prune", given, density=0.5))
    assert torch.equal(tv.Checkpoint.open("out")["layer.w"], expected["layer.w"])
    call("merge", *options, "--transform", "orthogonalize", "-o", "tsv", "--threads", "1")
    call("merge", *options, "--transform", "orthogonalize", "-o", "tsv2", "--threads", "2")
    first, second = (tv.Checkpoint.open(n)["layer.w"] for n in ("tsv", "tsv2"))
    assert torch.equal(first, second)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("step", "cause"),
    [
        ("awd", "no transform is named 'awd'"),
        ("magnitude_prune: {density: 2}", "density=2 is outside (0, 1]"),
        ("magnitude_prune: {dens: 1}", "no parameter 'dens'"),
        ("[orthogonalize]", "transforms must be a list of names"),
        ("3", "transforms must be a list of names"),
    ],
)
def test_what_the_command_line_cannot_apply_is_refused(step, cause):
    assert cause in refused("merge", "--method", "ties", "--base", "base", "math", "--transform", step, "-o", "out")


@pytest.mark.usefixtures("models")
def test_methods_on_points_have_no_transforms():
    message = refused("merge", "--method", "slerp", "math", "code", "--transform", "orthogonalize", "-o", "out")
    assert "slerp merges points" in message
