"""Linear and spherical means: the exact cases of the method card."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import taskvec as tv
from oracles.multislerp import reference as multislerp_reference
from taskvec.errors import ParameterError
from taskvec.testing import evaluate


def unit(*rows):
    x = np.array(rows, np.float64)
    return {"w": (x / np.linalg.norm(x, axis=1, keepdims=True))}


def normal(tasks, *shape, seed=0):
    return {"w": np.random.default_rng(seed).normal(size=(tasks, *shape))}


def point(*rows, dtype=torch.float32):
    return [tv.Checkpoint.from_tensors({"w": torch.tensor(row).to(dtype)}) for row in rows]


# --- slerp ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_slerp_at_its_ends_returns_the_inputs_bit_for_bit(t, dtype):
    a, b = point([1.0, -0.0, 3.0, 0.1], [0.5, 2.0, -0.0, -7.0], dtype=dtype)
    found = tv.merge("slerp", [a, b], t=t)
    assert (found.source.bits("w", 0, 4) == (a, b)[int(t)].source.bits("w", 0, 4)).all()


def test_slerp_does_not_preserve_norms_that_differ():
    found = evaluate("slerp", {"w": np.array([[1.0, 0.0], [0.0, 3.0]])}, points=True, t=0.5)
    assert np.linalg.norm(found["w"]) == pytest.approx(2.2360679)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.75])
def test_slerp_of_unit_vectors_is_a_unit_vector_at_the_right_angle(t):
    rows = unit([1.0, 2.0, -1.0], [0.5, -1.0, 2.0])
    found = evaluate("slerp", rows, points=True, t=t)["w"]
    angle = math.acos(rows["w"][0] @ rows["w"][1])
    assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-6)
    assert math.acos(found @ rows["w"][0]) == pytest.approx(t * angle, abs=1e-6)


@pytest.mark.parametrize(("cosine", "linear"), [(0.9996, True), (0.9994, False), (-0.9996, True), (-0.9994, False)])
def test_slerp_is_linear_where_the_models_are_nearly_parallel(cosine, linear):
    x = np.array([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
    found = evaluate("slerp", {"w": x}, points=True, t=0.5)["w"]
    assert (np.abs(found - x.mean(0)).max() < 1e-6) == linear
    assert linear or np.linalg.norm(found) == pytest.approx(1.0, abs=1e-6)


def test_slerp_turned_around_is_the_same():
    rows = normal(2, 7, 3)
    back = {"w": rows["w"][::-1].copy()}
    assert evaluate("slerp", rows, points=True, t=0.3)["w"] == pytest.approx(
        evaluate("slerp", back, points=True, t=0.7)["w"], rel=1e-6
    )


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_slerp_refuses_a_share_outside_the_arc(t):
    with pytest.raises(ParameterError, match="slerp: t="):
        tv.merge("slerp", point([1.0], [2.0]), t=t)


def test_slerp_needs_its_share_and_two_models():
    with pytest.raises(ParameterError, match=r"slerp needs a value for 't'\.\nFix: give t="):
        tv.merge("slerp", point([1.0], [2.0]))
    with pytest.raises(ParameterError, match=r"slerp needs exactly 2 inputs; it got 3\.\nFix: give it exactly 2"):
        tv.merge("slerp", point([1.0], [2.0], [3.0]), t=0.5)


# --- nuslerp -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [False, True])
def test_nuslerp_is_slerp_at_the_share_of_the_second_coefficient(points):
    rows = normal(2, 6, 4)
    expected = evaluate("slerp", rows, points=True, t=0.25)["w"]
    found = evaluate("nuslerp", rows, points=points, coefficients=[3.0, 1.0])["w"]
    assert found == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(("angles", "axis"), [("row", 1), ("column", 0)])
def test_nuslerp_by_rows_or_columns_merges_each_alone(angles, axis):
    rows = normal(2, 5, 4)
    found = evaluate("nuslerp", rows, angles=angles)["w"]
    for i in range(found.shape[1 - axis]):
        slices = {"w": rows["w"].take(i, axis=2 - axis)}
        assert found.take(i, axis=1 - axis) == pytest.approx(evaluate("nuslerp", slices)["w"], rel=1e-6)
    assert found != pytest.approx(evaluate("nuslerp", rows)["w"], rel=1e-3)


@pytest.mark.parametrize("angles", ["row", "column"])
def test_angles_of_a_tensor_beyond_a_block_do_not_depend_on_threads(angles):
    rows = {"w": np.random.default_rng(0).normal(size=(2, 700, 300)).astype(np.float32)}
    first, *others = [evaluate("nuslerp", rows, angles=angles, threads=n)["w"] for n in (1, 2, 4)]
    assert all((first == other).all() for other in others)
    at = {"w": rows["w"][:, 699] if angles == "row" else rows["w"][:, :, 299]}
    last = first[699] if angles == "row" else first[:, 299]
    assert last == pytest.approx(evaluate("nuslerp", at)["w"], rel=1e-6)


def test_nuslerp_refuses_coefficients_that_cancel_and_mergekit_halves():
    a, b = point([1.0, 0.0], [0.0, 1.0])
    with pytest.raises(
        ParameterError, match=r"nuslerp: the coefficients \[1.0, -1.0\] sum to 0, and are to be divided"
    ):
        tv.merge("nuslerp", [a, b], coefficients=[1.0, -1.0])["w"]
    found = tv.merge("nuslerp", [a, b], coefficients=[1.0, -1.0], dialect="mergekit")["w"]
    assert found.numpy() == pytest.approx(np.full(2, math.sqrt(0.5)), rel=1e-6)


# --- multislerp ----------------------------------------------------------------------------------------------


def test_multislerp_is_the_tangent_step_of_its_origin():
    """The projection, the tangent sum and the exponential map, written out with their eps."""
    x, w, eps = normal(3, 40)["w"], np.array([0.2, 0.5, 0.3]), 1e-8
    norms = np.linalg.norm(x, axis=1)
    u = x / (norms + eps)[:, None]
    m = w @ u / np.linalg.norm(w @ u)
    v = w @ (u - (u @ m)[:, None] * m)
    n = np.linalg.norm(v) + eps
    expected = (m * math.cos(n) + v * math.sin(n) / n) * (w @ norms)
    found = evaluate("multislerp", {"w": x}, coefficients=w.tolist(), dialect="mergekit")["w"]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)  # the tangent step is 0 but for eps


def test_multislerp_of_two_unit_vectors_is_slerp_half_way():
    rows = unit([1.0, 2.0, -1.0], [0.5, -1.0, 2.0])
    expected = evaluate("slerp", rows, points=True, t=0.5)["w"]
    assert evaluate("multislerp", rows)["w"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("signs", [(3.0, -3.0), (1.0, 2.0, -3.0, -4.0)])
def test_directions_that_cancel_give_the_linear_mean(signs):
    x = {"w": np.array(signs)}
    assert evaluate("multislerp", x)["w"] == pytest.approx(np.mean(signs), abs=1e-9)
    assert evaluate("karcher", x, points=True)["w"] == pytest.approx(np.mean(signs), abs=1e-9)


def test_mergekits_multislerp_refuses_directions_that_cancel_but_for_two():
    pair = {"w": np.array([1.0, -2.0])}
    assert evaluate("multislerp", pair, coefficients=[1.0, 1.0], dialect="mergekit")["w"] == pytest.approx(-0.5)
    with pytest.raises(ParameterError, match=r"the directions of the 4 inputs cancel in a tensor\.\nFix: use other"):
        evaluate("multislerp", {"w": np.array([1.0, -2.0, 1.0, -2.0])}, coefficients=1.0, dialect="mergekit")


def test_mergekits_multislerp_returns_a_single_input_as_it_is():
    x = normal(1, 5)
    assert evaluate("multislerp", x, coefficients=[2.0], dialect="mergekit")["w"] == pytest.approx(x["w"][0])
    twice = evaluate("multislerp", x, coefficients=[2.0], normalize=False)["w"]
    assert twice == pytest.approx(2.0 * x["w"][0], rel=1e-6)


def test_multislerp_refuses_to_divide_by_0():
    with pytest.raises(
        ParameterError,
        match=r"multislerp: the coefficients .* sum to 0, and are to be divided by their sum\.\nFix: give other",
    ):
        evaluate("multislerp", normal(2, 3), coefficients=[1.0, -1.0])


def test_a_base_turns_points_into_displacements():
    x, base = normal(3, 8)["w"], normal(1, 8, seed=5)["w"][0]
    models = [tv.Checkpoint.from_tensors({"w": torch.from_numpy(row)}) for row in x]
    origin = tv.Checkpoint.from_tensors({"w": torch.from_numpy(base)})
    found = tv.merge("multislerp", models, base=origin)
    options = {"coefficients": (1.0,) * 3, "normalize": True, "eps": 0.0, "dialect": "paper"}
    expected = base + multislerp_reference({"w": x - base}, **options)["w"]
    assert found["w"].numpy() == pytest.approx(expected, rel=1e-6)
    assert (found["w"] == (origin + tv.merge("multislerp", [m - origin for m in models]))["w"]).all()


# --- karcher -------------------------------------------------------------------------------------------------


def test_the_karcher_mean_of_two_unit_vectors_is_slerp_half_way():
    rows = unit([1.0, 2.0, -1.0], [0.5, -1.0, 2.0])
    expected = evaluate("slerp", rows, points=True, t=0.5)["w"]
    assert evaluate("karcher", rows, points=True)["w"] == pytest.approx(expected, rel=1e-6)


def test_the_karcher_mean_is_where_the_logarithms_sum_to_0():
    rows = unit([1.0, 2.0, -1.0, 0.0], [0.5, 1.0, 2.0, 1.0], [1.0, 0.0, 0.3, -2.0])
    m = evaluate("karcher", rows, points=True, max_iter=100, tol=1e-12)["w"]
    cosine = rows["w"] @ m
    logs = (np.arccos(cosine) / np.sqrt(1 - cosine**2))[:, None] * (rows["w"] - cosine[:, None] * m)
    assert np.abs(logs.sum(0)).max() < 1e-6


def test_a_zero_input_of_karcher_counts_in_the_length_alone():
    x = {"w": np.array([[3.0, 4.0], [0.0, 0.0]])}
    assert evaluate("karcher", x, points=True)["w"] == pytest.approx([1.5, 2.0])


# --- model stock ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.3, 0.8, 1.0])
def test_model_stock_of_two_deltas_is_the_published_ratio(cosine):
    x = {"w": np.array([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])}
    t = max(0.0, 2 * cosine / (1 + cosine))
    assert evaluate("model_stock", x)["w"] == pytest.approx(t * x["w"].mean(0), abs=1e-7)


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("size", [1e-30, 1e-4, 1.0, 1e6])
def test_model_stock_finds_the_best_multiple_of_the_mean_in_a_planted_family(tasks, size):
    """δ_t = μ + orthogonal noise of equal norms: t · mean is the orthogonal projection of μ on the mean."""
    x = np.zeros((tasks, tasks + 1))
    x[:, 0] = 2.0
    x[:, 1:] = np.eye(tasks)
    mean = x.mean(0)
    expected = (x[0, 0] * mean[0]) / (mean @ mean) * mean
    assert evaluate("model_stock", {"w": size * x})["w"] == pytest.approx(size * expected, rel=1e-6)


def test_model_stock_of_disjoint_deltas_is_0_and_of_equal_ones_the_input():
    assert not evaluate("model_stock", {"w": np.eye(3)})["w"].any()
    x = normal(1, 9)["w"]
    tiny = {"w": 1e-4 * np.repeat(x, 2, 0) / np.linalg.norm(x)}
    assert evaluate("model_stock", tiny)["w"] == pytest.approx(tiny["w"][0], rel=1e-6)
    assert evaluate("model_stock", tiny, dialect="mergekit")["w"] == pytest.approx(0.0198 * tiny["w"][0], rel=1e-2)


def test_mergekits_model_stock_extrapolates():
    x = {"w": np.array([[1.0, 0.0], [-0.5, math.sqrt(0.75)]])}
    assert evaluate("model_stock", x, dialect="mergekit")["w"] == pytest.approx(-2.0 * x["w"].mean(0), rel=1e-5)
    assert not evaluate("model_stock", x)["w"].any()


def test_a_filter_has_its_own_ratio():
    x = {"w": np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])}
    assert evaluate("model_stock", x, filter_wise=True)["w"] == pytest.approx(np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert evaluate("model_stock", x)["w"][1].any()


def test_model_stock_refuses_one_vector():
    with pytest.raises(ParameterError, match=r"model_stock needs at least 2 inputs; it got 1"):
        evaluate("model_stock", normal(1, 3))


# --- linear and passthrough ----------------------------------------------------------------------------------


def test_linear_is_the_base_and_the_average():
    x, base = normal(4, 9)["w"], normal(1, 9, seed=3)["w"][0]
    models = [tv.Checkpoint.from_tensors({"w": torch.from_numpy(row)}) for row in x]
    origin = tv.Checkpoint.from_tensors({"w": torch.from_numpy(base)})
    expected = (origin + tv.merge("average", [m - origin for m in models]))["w"].numpy()
    assert tv.merge("linear", models)["w"].numpy() == pytest.approx(expected, rel=1e-14)


def test_linear_moves_with_its_inputs():
    x = normal(3, 9)["w"]
    options = {"points": True, "coefficients": [0.5, 2.0, -1.0]}
    moved = evaluate("linear", {"w": x + 8.0}, **options)["w"]
    assert moved == pytest.approx(evaluate("linear", {"w": x}, **options)["w"] + 8.0, rel=1e-6)


def test_linear_refuses_to_divide_by_0():
    with pytest.raises(ParameterError, match=r"linear: the coefficients \[1.0, -1.0\] sum to 0, .*\nFix: give other"):
        tv.merge("linear", point([1.0], [2.0]), coefficients=[1.0, -1.0])
    found = tv.merge("linear", point([1.0], [2.0]), coefficients=[1.0, -1.0], normalize=False)
    assert found["w"].item() == -1.0


def test_mergekits_linear_wants_coefficients():
    with pytest.raises(ParameterError, match="linear needs a value for 'coefficients' in the dialect mergekit"):
        tv.merge("linear", point([1.0], [2.0]), dialect="mergekit")


def nearest(exact):
    """The float32 number nearest to a fraction, the even one of two."""
    near = np.float32(float(exact))
    beside = [np.nextafter(near, np.float32(way)) for way in (-np.inf, np.inf)]
    return min([near, *beside], key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.int32)) % 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("coefficients", [[1.0], [0.3, 0.7], [0.2, 0.3, 0.1], [1.0, 1.0, 1.0, 0.5, 0.25]])
@pytest.mark.parametrize("normalize", [True, False])
def test_mergekits_linear_adds_float32_products_with_one_rounding(coefficients, dtype, normalize):
    generator = torch.Generator().manual_seed(0)
    models = [torch.randn(1001, generator=generator).to(dtype) for _ in coefficients]
    each = torch.tensor(coefficients, dtype=torch.float32)
    total = [Fraction(0)] * 1001
    for c, model in zip(each.tolist(), models, strict=True):
        products = [Fraction(c) * Fraction(x) for x in model.tolist()]
        total = [Fraction(float(nearest(t + p))) for t, p in zip(total, products, strict=True)]
    expected = torch.tensor([float(t) for t in total])
    expected = (expected / each.sum() if normalize else expected).to(dtype)
    points = [tv.Checkpoint.from_tensors({"w": model}) for model in models]
    options = {"coefficients": coefficients, "normalize": normalize}
    assert torch.equal(tv.merge("linear", points, dialect="mergekit", **options)["w"], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_passthrough_keeps_every_bit(dtype):
    (model,) = point([1.0, -0.0, 1e-30, 3.7, 0.0], dtype=dtype)
    found = tv.merge("passthrough", [model])
    assert (found.source.bits("w", 0, 5) == model.source.bits("w", 0, 5)).all()


def test_passthrough_scales_and_takes_one_input():
    (model,) = point([1.0, -2.0])
    assert tv.merge("passthrough", [model], scale=-0.5)["w"].tolist() == [-0.5, 1.0]
    with pytest.raises(ParameterError, match=r"passthrough needs exactly 1 input; it got 2"):
        tv.merge("passthrough", [model, model])
    with pytest.raises(ParameterError, match="linear merges points, which have no scale"):
        tv.merge("linear", [model], scale=2.0)
