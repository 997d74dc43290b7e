"""Methods on matrices where little is left to decide: equal, nearly equal and opposed tasks, odd dtypes, bad input."""

import numpy as np
import pytest
import torch

import taskvec as tv
from taskvec.engine.merge import notes_of
from taskvec.errors import NonFiniteError, ParameterError
from taskvec.ops.layerwise import least_squares

SMOOTH = ("iso_c", "wudi", "star", "cart", "subspace_boosting")
FAMILY = (*SMOOTH, "iso_cts", "knots")


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape)).float()


def merged(method, *matrices, **parameters):
    vectors = [tv.TaskVector.from_tensors({"w": x}) for x in matrices]
    return tv.merge(method, vectors, **parameters)["w"]


def close(a, b, tolerance=1e-5):
    return float((a - b).norm()) <= tolerance * float(b.norm())


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9)])
@pytest.mark.parametrize(
    ("method", "factor"), [("iso_c", 3), ("wudi", 1), ("star", 1), ("cart", 1), ("subspace_boosting", 3), ("knots", 1)]
)
def test_equal_tasks_give_what_one_of_them_gives_or_as_often(method, factor, shape):
    x = normal(*shape)
    assert close(merged(method, x, x, x), factor * merged(method, x))


@pytest.mark.parametrize("method", FAMILY)
def test_opposed_tasks_give_nothing(method):
    x = normal(12, 20)
    assert float(merged(method, x, -x).abs().max()) <= 1e-12


@pytest.mark.parametrize("method", SMOOTH)
def test_nearly_equal_tasks_give_nearly_what_equal_ones_give(method):
    x, near = normal(12, 20), normal(12, 20, seed=1)
    assert close(merged(method, x, x + 1e-4 * near), merged(method, x, x), 1e-3)


@pytest.mark.parametrize("rank", [1, 3])
def test_iso_cts_keeps_what_nearly_equal_tasks_differ_in(rank):
    """A difference above the tolerance is a direction like any other, at the strength of all."""
    x, y, z = (normal(20, rank, seed=s) @ normal(rank, 30, seed=s + 9) for s in range(3))
    near = torch.stack([x + 1e-3 * y, x + 1e-3 * z])
    assert float(torch.nn.functional.cosine_similarity(*near.reshape(2, -1), dim=0)) > 0.999
    found = merged("iso_cts", *near, common=0.8)
    assert np.linalg.matrix_rank(found.numpy(), tol=1e-4) > np.linalg.matrix_rank(
        merged("iso_cts", x, x).numpy(), tol=1e-4
    )


@pytest.mark.parametrize("ridge", [0.0, 1e-300, 1e-18, 1e-12])
@pytest.mark.parametrize("shape", [(4, 30), (30, 4), (6, 6)])
def test_wudi_of_duplicates_has_a_singular_system_and_one_solution(ridge, shape):
    x, y = normal(*shape), normal(*shape, seed=1)
    found = least_squares(torch.stack([x, x, y, y]), ridge=ridge)
    assert close(found, least_squares(torch.stack([x, y]), ridge=0.0), 1e-5)
    assert close(least_squares(torch.stack([x, x]), ridge=ridge), x.double(), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", FAMILY)
def test_matrices_of_any_dtype_are_decomposed_in_float32_or_wider(method, dtype):
    rows = [normal(12, 20, seed=i).to(dtype) for i in range(3)]
    assert torch.equal(merged(method, *rows), merged(method, *(x.float() for x in rows)))


@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e10, 1e15])
@pytest.mark.parametrize("method", FAMILY)
def test_matrices_of_any_magnitude_are_merged_alike(method, scale):
    rows = [normal(12, 20, seed=i) for i in range(3)]
    found = merged(method, *(scale * x for x in rows))
    assert torch.isfinite(found).all()
    assert close(found.double() / scale, merged(method, *rows).double())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", FAMILY)
def test_a_matrix_with_values_that_are_no_numbers_is_named_with_its_task(method, value):
    broken = normal(12, 20)
    broken[3, 4] = value
    vectors = {n: tv.TaskVector.from_tensors({"w": x}) for n, x in (("math", normal(12, 20)), ("code", broken))}
    with pytest.raises(NonFiniteError, match="tensor 'w' has NaN or Inf in 'code'"):
        tv.merge(method, vectors)["w"]


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("star", {"density": 0.0}, r"density=0.0 is outside \(0, 1\]"),
        ("star", {"density": 1.5}, r"density=1.5 is outside \(0, 1\]"),
        ("cart", {"density": -0.1}, r"density=-0.1 is outside \(0, 1\]"),
        ("cart", {"density": "all"}, "density='all' is not a finite number"),
        ("knots", {"density": 0.0}, r"density=0.0 is outside \(0, 1\]"),
        ("iso_c", {"tolerance": 0.6}, r"tolerance=0.6 is outside \[0, 0.5\]"),
        ("iso_cts", {"common": 1.2}, r"common=1.2 is outside \[0, 1\]"),
        ("subspace_boosting", {"beta": -0.1}, r"beta=-0.1 is outside \[0, 1\]"),
        ("wudi", {"ridge": -1.0}, "ridge=-1.0 is outside"),
        ("wudi", {"steps": -1}, "steps=-1 is outside"),
        ("wudi", {"solver": "newton"}, "solver='newton' is not one of closed, adam"),
        ("iso_c", {"rank": 3}, "iso_c has no parameter 'rank'"),
    ],
)
def test_what_a_parameter_cannot_be_is_refused_before_anything_is_read(method, given, message):
    with pytest.raises(ParameterError, match=message):
        tv.merge(method, [tv.TaskVector.from_tensors({"w": normal(3, 4)})], **given)


def test_what_was_left_out_is_reported():
    low = [normal(20, 2, seed=s) @ normal(2, 30, seed=s + 9) for s in range(3)]
    vectors = [tv.TaskVector.from_tensors({"low": x, "full": normal(20, 30, seed=i)}) for i, x in enumerate(low)]
    for method, dropped in (("iso_c", 20 - 6), ("iso_cts", 20 - 6)):
        merge = tv.merge(method, vectors)
        assert notes_of(merge) == {}, "nothing was read yet"
        merge["low"], merge["full"]
        assert notes_of(merge) == {"low": {"dropped": dropped}, "full": {"dropped": 0}}
        assert notes_of(0.5 * merge) == notes_of(merge)


def test_nearly_equal_tasks_are_reported_by_a_merge_of_what_a_transform_makes_of_them(tmp_path):
    x, y = normal(18, 30), normal(18, 30, seed=1)
    given = {n: tv.TaskVector.from_tensors({"w": m}) for n, m in (("a", x), ("b", x + 1e-3 * y), ("c", y))}
    parts = tv.transform("orthogonalize", given)
    merge = tv.merge("task_arithmetic", parts)
    merge["w"]
    assert notes_of(merge)["w"]["alike"] == 1
    assert notes_of(merge)["w"]["dropped"] == 0
    assert notes_of(merge)["w"]["condition"] > 100
    assert notes_of(parts["c"]) == notes_of(merge)
    (tmp_path / "layout.yml").write_text('splits:\n  "w": rows 3\n')
    cut = tv.Checkpoint.from_tensors({"w": x}).layout(tmp_path / "layout.yml")
    equal = tv.transform("orthogonalize", [given["a"], given["a"]], layout=cut)
    equal["0"]["w"]
    assert notes_of(equal["0"])["w"]["dropped"] == 3, "of each of the three matrices"
