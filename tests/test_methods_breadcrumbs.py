"""Breadcrumbs: bands counted exactly, families where the answer is known, dialects, refusals."""

import math

import numpy as np
import pytest
import torch

import taskvec as tv
from oracles import kept, top
from taskvec.errors import ParameterError
from taskvec.testing import evaluate, named

NAMED = named()
BOTH = pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def crumbs(*tasks, method="breadcrumbs", **options):
    return evaluate(method, {"w": np.array(tasks, np.float32)}, **options)["w"]


@BOTH
@pytest.mark.parametrize("density", [0.001, 0.15, 0.3, 0.5])
@pytest.mark.parametrize("gamma", [0.0, 0.006, 0.1, 0.5])
@pytest.mark.parametrize("n", [1, 10, 997])
def test_the_band_has_as_many_entries_as_the_rule_says(method, density, gamma, n):
    x = normal(n)
    out = crumbs(x, method=method, density=density, gamma=gamma)
    removed = math.floor(gamma * n)
    assert (out != 0).sum() == min(kept(density, n), n - removed)
    assert (np.abs(x) > np.abs(out).max()).sum() == removed


def test_gamma_zero_is_the_magnitude_trim_of_each_tensor():
    x = {"a": normal(1, 40, 25), "b": 1000 * normal(1, 333)}
    out = evaluate("breadcrumbs", x, density=0.2, gamma=0.0)
    for name, stack in x.items():
        assert (out[name] == top(stack[0], kept(0.2, stack[0].size))).all()


def test_density_and_gamma_that_fill_the_tensor_only_leave_out_the_top():
    x = normal(100)
    out = crumbs(x, density=0.75, gamma=0.25)
    assert ((out == 0) == (np.abs(x) > np.sort(np.abs(x))[74])).all()


def test_equal_tasks_add_up_opposed_ones_cancel():
    x = normal(100)
    one = crumbs(x)
    assert (crumbs(x, x, x) == 3 * one).all()
    assert not crumbs(x, -x).any()
    assert (crumbs(x, 0 * x) == one).all()


@BOTH
def test_constant_tensors_and_single_entries_are_kept_whole(method):
    assert (crumbs(np.full(50, 0.25), method=method) == 0.25).all()
    assert evaluate(method, {"w": np.float32([3.0])})["w"] == 3.0
    assert crumbs([2.0], method=method)[0] == 2.0


def test_scalars():
    assert evaluate("breadcrumbs", {"w": np.float32([3, 3])})["w"] == 6
    assert evaluate("breadcrumbs", {"w": np.float32([3, -1])})["w"] == 2
    assert evaluate("breadcrumbs_ties", {"w": np.float32([3, -1])})["w"] == 3


@pytest.mark.parametrize("factor", [2.0**-20, 4.0, 2.0**30])
def test_the_scale_of_a_task_does_not_change_its_band(factor):
    x = normal(200)
    assert ((crumbs(x) != 0) == (crumbs(np.float32(factor) * x) != 0)).all()


def test_the_vote_drops_the_outvoted():
    x = np.array([[1.0, 5.0, -1.0], [-2.0, 5.0, -1.0]], np.float32)
    assert crumbs(*x, method="breadcrumbs_ties", density=1.0, gamma=0.0).tolist() == [-2.0, 10.0, -2.0]
    assert crumbs(*x, density=1.0, gamma=0.0).tolist() == [-1.0, 10.0, -2.0]


def test_rows_are_bands_of_their_own():
    scale = np.array([[1.0], [1000.0]], np.float32)
    x = scale * normal(2, 200)
    rows, tensor = (crumbs(x, density=0.2, gamma=0.1, scope=s) for s in ("row", "tensor"))
    assert (rows != 0).sum(1).tolist() == [40, 40]
    assert (tensor[0] != 0).sum() == 0


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_rows_run_along_the_last_axis_of_any_tensor(shape):
    out = crumbs(normal(*shape), density=0.5, gamma=0.2, scope="row")
    assert ((out != 0).sum(-1) == 3).all()


def test_short_rows_vanish_and_scalars_stay():
    assert not crumbs(normal(4, 3, 3), scope="row").any()
    assert evaluate("breadcrumbs", {"w": np.float32([3, 4])}, scope="row")["w"] == 7


def test_the_two_scopes_agree_on_most_of_what_they_keep():
    x = normal(500, 200)
    rows, tensor = (crumbs(x, scope=s) != 0 for s in ("row", "tensor"))
    assert 0.90 < (rows & tensor).sum() / tensor.sum() < 0.94


def test_rows_longer_than_a_block_are_seen_whole():
    x = normal(2, 70_000)
    out = crumbs(x, density=0.1, gamma=0.01, scope="row")
    assert (out != 0).sum(1).tolist() == [7000, 7000]


def test_mergekit_empties_single_entries_and_makes_room_for_the_density():
    options = {"dialect": "mergekit", "density": 0.5}
    assert crumbs([2.0], **options)[0] == 0
    x = normal(100)
    assert (crumbs(x, dialect="mergekit", density=0.8, gamma=0.5) != 0).sum() == 80
    assert (crumbs(x, dialect="mergekit", density=0.805, gamma=0.1) != 0).sum() == 80
    assert (crumbs(x, dialect="mergekit", density=1.0, gamma=0.5) == x).all()


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.8, "gamma": 0.3}, r"density=0.8 and gamma=0.3 are together above 1.\nFix: lower one of them"),
        ({"density": [0.1, 0.9], "gamma": 0.2}, "density=0.9 and gamma=0.2 are together above 1"),
        ({"density": 0.0}, r"density=0.0 is outside \(0, 1\]"),
        ({"gamma": -0.1}, r"gamma=-0.1 is outside \[0, 1\]"),
        ({"scope": "model"}, "scope='model' is not one of tensor, row"),
        ({"scope": "row", "dialect": "mergekit"}, "scope='row' has no meaning in the dialect 'mergekit'"),
        ({"dialect": "peft"}, "dialect='peft' is not one of paper, mergekit"),
        ({"normalize": True}, "normalize=True has no meaning in the dialect 'paper'"),
    ],
)
def test_what_they_refuse(method, options, message):
    with pytest.raises(ParameterError, match=message):
        tv.merge(method, [tv.TaskVector.from_tensors({"w": torch.ones(3)})] * 2, **options)


def test_coefficients_weigh_the_sum_and_belong_to_mergekit_where_there_is_a_vote():
    x = normal(2, 50)
    expected = 0.5 * crumbs(x[0]) - 2.0 * crumbs(x[1])
    np.testing.assert_allclose(crumbs(*x, coefficients=[0.5, -2.0]), expected, rtol=1e-14)
    with pytest.raises(ParameterError, match=r"breadcrumbs_ties: coefficients=0.5 .*\nFix: dialect=\"mergekit\""):
        crumbs(*x, method="breadcrumbs_ties", coefficients=0.5)


def test_coefficients_that_sum_to_nothing_cannot_be_normalized():
    with pytest.raises(ParameterError, match=r"breadcrumbs: the coefficients \[1.0, -1.0\] sum to 0"):
        crumbs(*normal(2, 5), dialect="mergekit", normalize=True, coefficients=[1.0, -1.0])


def test_a_band_may_differ_from_tensor_to_tensor_and_each_is_checked():
    from taskvec.methods._parameters import PerTensor

    vector = tv.TaskVector.from_tensors({"a": torch.arange(1.0, 11.0), "b": torch.arange(1.0, 11.0)})
    merged = tv.merge("breadcrumbs", [vector], density=PerTensor((("a", 0.5),), 0.2), gamma=0.1)
    assert [(merged[n] != 0).sum().item() for n in "ab"] == [5, 2]
    with pytest.raises(ParameterError, match=r"density=0\.95 and gamma=0\.1 are together above 1"):
        tv.merge("breadcrumbs", [vector], density=PerTensor((("a", 0.95),), 0.2), gamma=0.1)
