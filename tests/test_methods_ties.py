"""TIES: the families where the answer is known, its dialects, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskvec as tv
from oracles import kept, top
from taskvec.errors import ParameterError
from taskvec.testing import check_law, evaluate, named

NAMED = named()


def rows(*tasks):
    return {"w": np.array(tasks, np.float32)}


def ties(*tasks, **options):
    return evaluate("ties", rows(*tasks), **options)["w"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_one_task_is_trimmed():
    x = normal(501)
    assert (ties(x) == top(x, kept(0.2, 501))).all()


@given(copies=st.integers(2, 5), density=st.sampled_from([0.05, 0.2, 0.5, 1.0]))
def test_equal_tasks_are_the_trimmed_task(copies, density):
    x = normal(101)
    np.testing.assert_allclose(ties(*[x] * copies, density=density), top(x, kept(density, 101)), rtol=1e-15)


def test_opposed_tasks_merge_to_nothing():
    x = normal(101)
    assert not ties(x, -x).any()


def test_a_task_and_nothing_is_the_trimmed_task():
    x = normal(101)
    assert (ties(x, 0 * x) == ties(x)).all()


def test_equal_magnitudes_are_all_kept():
    signs = np.sign(normal(40)) * 0.5
    assert (ties(signs) == signs).all()


def test_scalars():
    assert evaluate("ties", {"w": np.float32([3, 3])})["w"] == 3
    assert evaluate("ties", {"w": np.float32([3, -1])})["w"] == 3


def test_density_one_with_disjoint_supports_is_the_sum():
    x = NAMED["disjoint"]
    assert (ties(*x["w"], density=1.0) == evaluate("task_arithmetic", x)["w"]).all()


def test_equal_tasks_are_returned_at_density_one():
    for case in ("ordinary", "several_scales", "tiny"):
        check_law("ties", "idempotent", NAMED[case], density=1.0)


@pytest.mark.parametrize("aggregate", ["mean", "sum", "max"])
def test_the_outcome_lies_between_nothing_and_the_agreeing(aggregate):
    x = normal(4, 300)
    out = ties(*x, density=0.6, aggregate=aggregate)
    elected = np.sign(out)
    agreeing = np.where(np.sign(x) == elected, np.abs(x.astype(float)), 0)
    bound = agreeing.sum(0) if aggregate == "sum" else agreeing.max(0)
    assert (np.abs(out) <= bound * (1 + 1e-12)).all()
    assert (out != 0).any()


def test_the_aggregates_are_ordered():
    x = normal(3, 300)
    mean, largest, total = (np.abs(ties(*x, aggregate=a)) for a in ("mean", "max", "sum"))
    assert (mean <= largest).all()
    assert (largest <= total).all()
    assert (mean < total).any()


def test_kept_entries_are_nested_in_density():
    x = normal(999)
    before = np.zeros(999, bool)
    for density in (0.01, 0.1, 0.3, 0.7, 1.0):
        now = ties(x, density=density) != 0
        assert not (before & ~now).any()
        before = now


@pytest.mark.parametrize("density", [0.001, 0.07, 0.2, 0.29, 0.5, 1 / 3, 0.999, 1.0])
@pytest.mark.parametrize("n", [1, 7, 100])
def test_exactly_as_many_entries_are_kept_as_the_density_says(density, n):
    assert (ties(normal(n), density=density) != 0).sum() == max(1, math.ceil(density * n))


def test_the_paper_trims_the_model_and_the_dialects_each_tensor():
    x = {"small": normal(2, 500), "large": 1000 * normal(2, 500, seed=1)}
    small = {d: (evaluate("ties", x, dialect=d)["small"] != 0).mean() for d in ("paper", "mergekit", "peft")}
    assert small["paper"] < 0.01
    assert small["mergekit"] > 0.15
    assert small["peft"] > 0.15


def test_tied_tensors_count_once():
    shared = torch.arange(1.0, 11.0)
    base = tv.Checkpoint.from_tensors({"a": torch.zeros(10), "b": torch.zeros(10)})
    zeros = torch.zeros(10)
    tied = tv.Checkpoint.from_tensors({"a": zeros, "c": zeros, "b": torch.zeros(10)})
    moved = tv.Checkpoint.from_tensors({"a": shared, "c": shared, "b": torch.zeros(10)})
    plain = tv.Checkpoint.from_tensors({"a": shared, "b": torch.zeros(10)})
    expected = tv.merge("ties", [plain - base], density=0.2)
    assert (tv.merge("ties", [moved - tied], density=0.2)["a"] == expected["a"]).all()
    assert (expected["a"] != 0).sum() == 4


def test_zero_votes_elect_plus_in_the_dialects_and_nobody_in_the_paper():
    for dialect, expected in (("paper", 0.0), ("mergekit", 1.0), ("peft", 1.0)):
        assert ties([1.0, 5.0], [-1.0, 5.0], dialect=dialect, density=1.0)[0] == expected


def test_mergekit_weighs_votes_and_peft_does_not():
    x, c = ([3.0, 1.0], [-1.0, 1.0]), [0.1, 1.0]
    assert ties(*x, dialect="mergekit", density=1.0, coefficients=c)[0] == pytest.approx(-1.0)
    assert ties(*x, dialect="peft", density=1.0, coefficients=c)[0] == pytest.approx(0.3)


def test_mergekit_divides_by_the_agreeing_coefficients_or_not():
    x, c = ([1.0, 1.0], [2.0, 2.0]), [0.5, 0.25]
    assert ties(*x, dialect="mergekit", density=1.0, coefficients=c)[0] == pytest.approx(1.0 / 0.75)
    assert ties(*x, dialect="mergekit", density=1.0, coefficients=c, normalize=False)[0] == pytest.approx(1.0)


def test_a_negative_coefficient_flips_the_value_and_in_peft_not_the_vote():
    assert ties([2.0, 1.0], [1.0, 1.0], dialect="peft", density=1.0, coefficients=[1.0, -1.0])[0] == 0.5
    assert ties([2.0, 1.0], [1.0, 1.0], dialect="mergekit", density=1.0, coefficients=[1.0, -1.0])[0] == 2.0


def test_the_majority_counts_values_or_heads():
    x = ([-5.0, 1.0], [1.0, 1.0], [2.0, 1.0])
    assert ties(*x, dialect="peft", density=1.0)[0] == -5.0
    assert ties(*x, dialect="peft", density=1.0, majority="frequency")[0] == 1.5


def test_majorities_coincide_where_all_magnitudes_are_equal():
    x = np.sign(normal(5, 200))
    one, other = (ties(*x, dialect="peft", density=1.0, majority=m) for m in ("total", "frequency"))
    assert (one == other).all()


def test_mergekit_keeps_at_least_one_entry_and_peft_none_below_one():
    assert (ties(normal(9), dialect="mergekit", density=0.05) != 0).sum() == 1
    assert not ties(normal(9), dialect="peft", density=0.05).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"coefficients": 0.5},
            r"ties: coefficients=0.5 has no meaning in the dialect 'paper'.\nFix: dialect=\"mergekit\"",
        ),
        ({"coefficients": [1.0, 2.0]}, r"coefficients=\(1.0, 2.0\) has no meaning"),
        ({"normalize": False}, r"normalize=False has no meaning in the dialect 'paper'.\nFix: dialect=\"mergekit\""),
        (
            {"majority": "frequency"},
            r"majority='frequency' has no meaning in the dialect 'paper'.\nFix: dialect=\"peft\"",
        ),
        ({"majority": "frequency", "dialect": "mergekit"}, "has no meaning in the dialect 'mergekit'"),
        ({"normalize": False, "dialect": "peft"}, "has no meaning in the dialect 'peft'"),
        ({"aggregate": "sum", "dialect": "mergekit"}, "aggregate='sum' has no meaning in the dialect 'mergekit'"),
        ({"aggregate": "median"}, "aggregate='median' is not one of mean, sum, max"),
        ({"majority": "most", "dialect": "peft"}, "majority='most' is not one of total, frequency"),
        ({"dialect": "mergkit"}, "dialect='mergkit' is not one of paper, mergekit, peft"),
        ({"density": 0.0}, r"density=0.0 is outside \(0, 1\]"),
        ({"density": 1.01}, r"density=1.01 is outside \(0, 1\]"),
        ({"density": [0.2]}, "density has 1 values for 2 tasks"),
        ({"densty": 0.2}, r"ties has no parameter 'densty'.\nFix: did you mean 'density'"),
    ],
)
def test_what_it_refuses(options, message):
    vectors = [tv.TaskVector.from_tensors({"w": torch.ones(3)})] * 2
    with pytest.raises(ParameterError, match=message):
        tv.merge("ties", vectors, **options)
