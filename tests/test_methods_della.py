"""DELLA: probabilities by rank, without bias, DARE where the window is empty; dialects and refusals."""

import math

import numpy as np
import pytest
import torch

import taskvec as tv
from taskvec.errors import ParameterError
from taskvec.testing import evaluate, named

NAMED = named()


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def della(*tasks, method="della_linear", **options):
    return evaluate(method, {"w": np.array(tasks, np.float32)}, **options)["w"]


@pytest.mark.parametrize("case", ["ordinary", "several_scales", "conv_kernel", "scalar", "vector", "beyond_a_block"])
@pytest.mark.parametrize(
    ("one", "other"), [("della_linear", {"method": "dare_linear"}), ("della", {"method": "dare_ties"})]
)
def test_an_empty_window_is_dare_bit_for_bit(one, other, case):
    extra = {"trim_density": 1.0} if one == "della" else {}
    found = evaluate(one, NAMED[case], density=0.6, epsilon=0.0, seed=3)
    expected = evaluate(other["method"], NAMED[case], density=0.6, seed=3, **extra)
    for name in found:
        assert found[name].tobytes() == expected[name].tobytes()


def test_each_rank_stays_as_often_as_it_should():
    m, seeds, density, epsilon = 9, 3000, 0.5, 0.3
    x = np.array([0.5, -3.0, 1.0, 7.0, -0.1, 0.2, 2.0, -5.0, 4.0], np.float32)
    rows = np.tile(x, (seeds, 1))
    frequency = (della(rows, density=density, epsilon=epsilon) != 0).mean(0)
    ranks = np.argsort(np.argsort(np.abs(x)))
    p = density - epsilon + 2 * epsilon * ranks / (m - 1)
    assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / seeds)).all()


def test_equal_magnitudes_are_ranked_by_position():
    rows = np.tile(np.array([1.0, -1.0, 1.0, -1.0, 1.0], np.float32), (4000, 1))
    frequency = (della(rows, density=0.5, epsilon=0.4) != 0).mean(0)
    np.testing.assert_allclose(frequency, [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.05)


def test_entries_that_stay_are_divided_by_their_probability():
    x = np.arange(1.0, 6.0)
    out = np.array([della(x, density=0.5, epsilon=0.4, seed=s) for s in range(60)])
    for i, p in enumerate([0.1, 0.3, 0.5, 0.7, 0.9]):
        kept = out[:, i][out[:, i] != 0]
        np.testing.assert_allclose(kept, x[i] / p, rtol=1e-12)
        assert kept.size


def test_the_mean_over_seeds_is_the_input():
    n, seeds, density, epsilon = 2000, 300, 0.7, 0.2
    x = normal(n) + np.float32(np.sign(normal(n)) * 2)
    mean = np.mean([della(x, density=density, epsilon=epsilon, seed=s) for s in range(seeds)], axis=0)
    ranks = np.argsort(np.argsort(np.abs(x)))
    p = density - epsilon + 2 * epsilon * ranks / (n - 1)
    z = (mean - x) / (np.abs(x) * np.sqrt((1 - p) / (p * seeds)))
    assert abs(z.mean()) <= 5 / math.sqrt(n)
    assert abs(z.var() - 1) <= 5 * math.sqrt(2 / n)


def test_gaussian_rows_lose_less_than_under_dare():
    x = normal(400, 500)
    size = (x.astype(float) ** 2).sum()
    by_rank = (della(x) ** 2).sum() / size
    by_chance = (evaluate("dare_linear", {"w": x[None]}, density=0.7)["w"] ** 2).sum() / size
    assert by_rank == pytest.approx(1.345, abs=0.02)
    assert by_chance == pytest.approx(1 / 0.7, abs=0.02)


@pytest.mark.parametrize("shape", [(40,), (5, 40), (5, 8, 5), (5, 2, 4, 5)])
def test_a_row_is_a_vector_or_a_slice_of_the_first_axis(shape):
    x = normal(*shape)
    as_matrix = della(x.reshape(-1, 40), density=0.5, epsilon=0.4)
    assert (della(x, density=0.5, epsilon=0.4) == as_matrix.reshape(shape)).all()


def test_mergekit_ranks_along_the_second_axis():
    x = np.zeros((1, 3, 1, 4), np.float32)
    x[0, :, 0, :] = np.array([[1.0], [2.0], [3.0]])
    kept = [
        della(x, density=0.5, epsilon=0.45, dialect="mergekit", rescale=False, seed=s)[0, :, 0] != 0 for s in range(200)
    ]
    np.testing.assert_allclose(np.mean(kept, axis=(0, 2)), [0.05, 0.5, 0.95], atol=0.06)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (4, 1, 1)])
def test_rows_of_one_entry_stay_with_the_density(shape):
    x = np.ones((1, *shape), np.float32)
    kept = [evaluate("della_linear", {"w": x}, density=0.5, epsilon=0.4, seed=s)["w"].mean() for s in range(400)]
    assert np.mean(kept) == pytest.approx(1.0, abs=0.25)
    assert set(np.unique(evaluate("della_linear", {"w": x}, density=0.5, epsilon=0.4)["w"])) <= {0.0, 2.0}


def test_density_one_keeps_everything_whatever_the_window():
    for case in ("ordinary", "several_scales", "empty_among_others"):
        found = evaluate("della_linear", NAMED[case], density=1.0, epsilon=0.9)
        expected = evaluate("task_arithmetic", NAMED[case])
        assert all(found[n].tobytes() == expected[n].tobytes() for n in found)


def test_tasks_may_have_densities_of_their_own():
    x = np.ones(4000, np.float32)
    out = della(x, 10 * x, density=[1.0, 0.5], epsilon=0.2)
    assert (out >= 1).all()
    assert 0.45 < (out > 1).mean() < 0.55


def test_mergekit_gives_a_tensor_its_l1_norm_back():
    x = normal(30, 100)
    out = della(x, density=0.5, dialect="mergekit")
    assert np.abs(out).sum() == pytest.approx(np.abs(x.astype(float)).sum(), rel=1e-6)
    factor = np.abs(out[out != 0] / x[out != 0])
    assert factor.std() < 1e-5
    assert factor.mean() < 2.0  # less than 1 / density: what stays is large


def test_rows_longer_than_a_block_are_ranked_whole():
    x = normal(2, 70_000)
    out = della(x, density=0.5, epsilon=0.4)
    low = np.abs(x) < np.median(np.abs(x))
    assert 0.28 < (out != 0)[low].mean() < 0.32
    assert 0.68 < (out != 0)[~low].mean() < 0.72


def test_opposed_tasks_cancel_only_where_both_stay():
    x = np.ones(1000, np.float32)
    out = della(x, -x, method="della", density=0.5, epsilon=0.0)
    assert {0.0, 2.0, -2.0} == set(np.unique(out))


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.95}, r"density=0.95 ± epsilon=0.07 is not within \(0, 1\].\nFix: epsilon below 0.05"),
        ({"density": 0.05}, r"density=0.05 ± epsilon=0.07 is not within"),
        ({"density": 0.07, "epsilon": 0.07}, "is not within"),
        ({"density": [0.5, 0.99]}, "density=0.99 ± epsilon=0.07 is not within"),
        ({"epsilon": -0.1}, r"epsilon=-0.1 is outside \[0"),
        ({"dialect": "peft"}, "dialect='peft' is not one of paper, mergekit"),
        ({"rescale": False}, "rescale=False has no meaning in the dialect 'paper'"),
    ],
)
def test_what_they_refuse(method, options, message):
    with pytest.raises(ParameterError, match=message):
        tv.merge(method, [tv.TaskVector.from_tensors({"w": torch.ones(3)})] * 2, **options)


def test_coefficients_belong_to_mergekit_where_there_is_a_vote():
    with pytest.raises(ParameterError, match=r"della: coefficients=0.5 .*\nFix: dialect=\"mergekit\""):
        della(*normal(2, 5), method="della", coefficients=0.5)
    with pytest.raises(ParameterError, match=r"della: normalize=False has no meaning in the dialect 'paper'"):
        della(*normal(2, 5), method="della", normalize=False)
