"""DARE: without bias, with the right spread, the same entries for the same seed; and what its dialects do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskvec as tv
from taskvec.errors import ParameterError
from taskvec.testing import evaluate, named

NAMED = named()
DENSITIES = [0.1, 0.5, 0.8]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dare(*tasks, method="dare", **options):
    return evaluate(method, {"w": np.array(tasks, np.float32)}, **options)["w"]


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_as_many_entries_stay_as_the_density_says(density, seed):
    n = 40_000
    kept = (dare(normal(n), density=density, seed=seed) != 0).sum()
    assert abs(kept - n * density) <= 5 * math.sqrt(n * density * (1 - density))


@pytest.mark.parametrize("density", DENSITIES)
def test_entries_that_stay_are_divided_by_the_density_exactly(density):
    x = normal(5000)
    out = dare(x, density=density)
    assert (out[out != 0] == x[out != 0].astype(np.float64) / density).all()


@pytest.mark.parametrize("density", DENSITIES)
def test_the_mean_over_seeds_is_the_input_and_the_spread_is_that_of_a_coin(density):
    n, seeds = 4000, 500
    x = normal(n) + np.float32(3)
    mean = np.mean([dare(x, density=density, seed=s) for s in range(seeds)], axis=0)
    z = (mean - x) / (np.abs(x) * math.sqrt((1 - density) / (density * seeds)))
    assert abs(z.mean()) <= 5 / math.sqrt(n)
    assert abs(z.var() - 1) <= 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("density", DENSITIES)
def test_the_squared_norm_grows_by_the_density_and_inner_products_of_other_tasks_stay(density):
    n, seeds = 2000, 300
    x, y = normal(n), normal(n, seed=1) + normal(n)
    first = np.array([dare(x, 0 * x, density=density, seed=s) for s in range(seeds)])
    both = np.array([dare(x, y, density=density, seed=s) for s in range(seeds)])
    norms, inner = (first**2).sum(1), (first * (both - first)).sum(1)
    for found, expected in ((norms, (x.astype(float) ** 2).sum() / density), (inner, (x.astype(float) * y).sum())):
        assert abs(found.mean() - expected) <= 5 * found.std() / math.sqrt(seeds)


@pytest.mark.parametrize("method", ["dare", "dare_linear", "della_linear"])
@pytest.mark.parametrize("case", ["ordinary", "several_scales", "scalar", "tiny", "conv_kernel"])
def test_density_one_is_task_arithmetic_bit_for_bit(method, case):
    options = {"coefficients": [0.3, -1.7, 2.0]}
    found = evaluate(method, NAMED[case], density=1.0, **options)
    for name, expected in evaluate("task_arithmetic", NAMED[case], **options).items():
        assert found[name].tobytes() == expected.tobytes()


def test_density_one_reads_doubles_that_no_float32_holds():
    x = torch.tensor([1.0 + 2.0**-40, 1e-300], dtype=torch.float64)
    vector = tv.TaskVector.from_tensors({"w": x})
    assert tv.merge("dare", [vector], density=1.0).values("w", 0, 2).tolist() == x.tolist()


@given(low=st.floats(0.01, 1.0), high=st.floats(0.01, 1.0))
def test_entries_kept_at_one_density_are_kept_at_every_larger_one(low, high):
    low, high = sorted((low, high))
    x = np.ones(500, np.float32)
    kept_low, kept_high = (dare(x, density=d) != 0 for d in (low, high))
    assert not (kept_low & ~kept_high).any()


def test_tasks_draw_on_their_own():
    x = np.ones(20_000, np.float32)
    both = dare(x, x, density=0.5)
    counts = [(both == v).mean() for v in (0.0, 2.0, 4.0)]
    assert np.abs(np.array(counts) - [0.25, 0.5, 0.25]).max() < 0.02


def test_tensors_draw_on_their_own():
    x = np.ones((1, 5000), np.float32)
    out = evaluate("dare", {"a": x, "b": x}, density=0.5)
    assert 0.45 < (out["a"] == out["b"]).mean() < 0.55


def test_dare_linear_is_dare_at_the_same_seed():
    for case in ("ordinary", "several_scales"):
        one, other = (evaluate(m, NAMED[case], density=0.6, seed=4) for m in ("dare", "dare_linear"))
        assert all(one[n].tobytes() == other[n].tobytes() for n in one)


def test_dare_ties_without_a_trim_votes_on_what_dare_leaves():
    x = np.abs(normal(2, 500)) * np.array([[1.0], [-1.0]], np.float32)
    a, b = dare(x[0], 0 * x[0], density=0.5), dare(0 * x[1], x[1], density=0.5)
    expected = np.where(np.abs(a) > np.abs(b), a, b)
    np.testing.assert_allclose(dare(*x, method="dare_ties", density=0.5, trim_density=1.0), expected, rtol=1e-15)


@pytest.mark.parametrize(("density", "trims"), [(0.1, False), (0.19, False), (0.5, True)])
def test_the_trim_is_nothing_where_fewer_entries_are_left(density, trims):
    x = normal(2, 4000)
    trimmed, plain = (dare(*x, method="dare_ties", density=density, trim_density=t) for t in (0.2, 1.0))
    assert (trimmed != plain).any() == trims
    assert (trimmed != 0).sum() <= (plain != 0).sum()


def test_the_trim_sees_the_whole_model_and_only_what_is_left():
    x = {"small": normal(1, 3000), "large": 1000 * normal(1, 3000, seed=1)}
    out = evaluate("dare_ties", x, density=0.5)
    assert not out["small"].any()
    assert (out["large"] != 0).sum() == 1200  # 0.2 of 6000 entries


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_mergekit_gives_a_tensor_its_l1_norm_back(method):
    x = normal(1, 3000)
    out = evaluate(method, {"w": x}, density=0.5, dialect="mergekit")["w"]
    assert np.abs(out).sum() == pytest.approx(np.abs(x.astype(float)).sum(), rel=1e-12)
    plain = evaluate(method, {"w": x}, density=0.5, dialect="mergekit", rescale=False)["w"]
    assert set(np.unique(plain / x[0]).round(6)) == {0.0, 1.0}


def test_mergekit_leaves_tensors_alone_that_are_negligible():
    x = 1e-12 * normal(1, 1000)
    out = evaluate("dare_linear", {"w": x}, density=0.5, dialect="mergekit")["w"]
    assert (out[out != 0] == x[0][out != 0]).all()


def test_normalize_divides_by_the_sum_of_coefficients():
    x, options = normal(2, 100), {"dialect": "mergekit", "coefficients": [1.0, 3.0]}
    plain, divided = (dare(*x, method="dare_linear", normalize=n, **options) for n in (False, True))
    np.testing.assert_allclose(divided, plain / 4, rtol=1e-14)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dare", {"density": 0.0}, r"density=0.0 is outside \(0, 1\]"),
        ("dare", {"seed": -1}, r"seed=-1 is outside \[0, "),
        ("dare", {"seed": 1.5}, "seed=1.5 is not a finite integer"),
        ("dare_linear", {"normalize": True}, "dare_linear: normalize=True has no meaning in the dialect 'paper'"),
        ("dare_linear", {"rescale": False, "dialect": "peft"}, "rescale=False has no meaning in the dialect 'peft'"),
        (
            "dare_linear",
            {"normalize": True, "dialect": "mergekit", "coefficients": [1.0, -1.0]},
            r"coefficients \[1.0, -1.0\] sum to 0, and normalize divides by their sum.\nFix: normalize=False",
        ),
        ("dare_ties", {"coefficients": 0.5}, r"coefficients=0.5 has no meaning .*\nFix: dialect=\"mergekit\""),
        ("dare_ties", {"trim_density": 0.5, "dialect": "mergekit"}, r"trim_density=0.5 has no meaning in the dialect"),
        ("dare_ties", {"majority": "frequency"}, r"majority='frequency' has no meaning .*\nFix: dialect=\"peft\""),
        ("dare_ties", {"normalize": True}, "normalize=True has no meaning in the dialect 'paper'"),
    ],
)
def test_what_they_refuse(method, options, message):
    with pytest.raises(ParameterError, match=message):
        tv.merge(method, [tv.TaskVector.from_tensors({"w": torch.ones(3)})] * 2, **options)


@pytest.mark.parametrize("key", ["density", "trim_density"])
def test_a_density_per_tensor_is_refused_where_the_statistic_is_of_the_model(key):
    from taskvec.methods._parameters import PerTensor

    vectors = [tv.TaskVector.from_tensors({"w": torch.ones(3)})] * 2
    merged = tv.merge("dare_ties", vectors, **{key: PerTensor((("w", 0.5),), 0.2)})
    with pytest.raises(ParameterError, match=f"dare_ties: {key} differs from tensor to tensor"):
        merged["w"]


def test_a_density_per_tensor_is_followed_where_there_is_no_such_statistic():
    from taskvec.methods._parameters import PerTensor

    x = {"a": torch.ones(1000), "b": torch.ones(1000)}
    merged = tv.merge("dare", [tv.TaskVector.from_tensors(x)], density=PerTensor((("a", 1.0),), 0.5))
    assert (merged["a"] == 1).all()
    assert set(merged["b"].unique().tolist()) == {0.0, 2.0}
