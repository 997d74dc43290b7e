"""Sign votes: the compiled loops against the plain definition, bit for bit or nearly, by every rule."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskvec.ops import random_kernels, rank_kernels, vote_kernels
from taskvec.ops.random import stream_keys, thresholds, uniforms
from taskvec.ops.signs import Rule, agree, bars, elect, fuse, keep

RULES = [
    Rule(*parts)
    for parts in itertools.product(("values", "weighted", "signs"), (0.0, 1.0), ("none", "count", "coefficients"))
]
seeds = st.integers(0, 2**32 - 1)


def block(seed, tasks, n, *, grid):
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (tasks, n)) / 4 if grid else rng.normal(size=(tasks, n))
    return x.astype(np.float32), rng.choice([0.5, 1.0, -2.0, 0.0], tasks)


@pytest.mark.parametrize("rule", RULES)
@given(seed=seeds, tasks=st.integers(1, 6), n=st.integers(0, 70), grid=st.booleans())
def test_the_compiled_vote_is_the_plain_one(rule, seed, tasks, n, grid):
    x, c = block(seed, tasks, n, grid=grid)
    out = np.empty(n)
    vote_kernels.vote(x.astype(np.float64), c, rule.codes, out)
    np.testing.assert_allclose(out, fuse(torch.from_numpy(x), c, rule).numpy(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("n", [0, 1, 2047, 2048, 2049, 70_000])
@pytest.mark.parametrize("rule", [Rule(), Rule("weighted", 1.0, "coefficients"), Rule("signs", 1.0)])
def test_strips_of_any_length_trim_and_vote_alike(rule, n):
    x, c = block(n, 3, n, grid=False)
    lows, highs = np.array([0.5, 0.0, np.inf], np.float32), np.array([1.5, np.inf, np.inf], np.float32)
    size = np.abs(x)
    kept = np.where((size >= lows[:, None]) & (size <= highs[:, None]), x, 0.0)
    out = np.empty(n)
    vote_kernels.trimmed_vote(x, lows, highs, c, rule.codes, out)
    np.testing.assert_allclose(out, fuse(torch.from_numpy(kept), c, rule).numpy(), rtol=1e-14, atol=0)
    vote_kernels.trimmed_sum(x, lows, highs, c, out)
    np.testing.assert_allclose(out, (c[:, None] * kept.astype(np.float64)).sum(0), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("n", [1, 2049, 70_000])
def test_dropping_in_the_vote_is_dropping_and_then_voting(n):
    x, c = block(n, 3, n, grid=False)
    keys, density, start = stream_keys(0, ["a", "b", "c"], "w"), [0.2, 0.5, 1.0], 12_345
    lows, divisors = np.array([0.0, 0.5, 0.1], np.float32), np.array([0.2, 0.7, 1.0])
    stays = (uniforms(keys, start, n) < np.array(density)[:, None]) & (np.abs(x) >= lows[:, None])
    kept = np.where(stays, x.astype(np.float64) / divisors[:, None], 0.0)
    draws = (keys, np.uint64(start), thresholds(density))
    out = np.empty(n)
    vote_kernels.dropped_vote(x, lows, *draws, divisors, c, Rule().codes, out)
    np.testing.assert_allclose(out, fuse(torch.from_numpy(kept), c, Rule()).numpy(), rtol=1e-14, atol=0)
    vote_kernels.dropped_sum(x, *draws, divisors, c, out)
    every = np.where(uniforms(keys, start, n) < np.array(density)[:, None], x / divisors[:, None], 0.0)
    np.testing.assert_allclose(out, (c[:, None] * every).sum(0), rtol=1e-14, atol=1e-15)


def test_masks_leave_the_entries_as_they_are():
    x, _ = block(1, 2, 500, grid=False)
    keys, out = stream_keys(0, ["a", "b"], "w"), np.empty_like(x)
    random_kernels.mask_rows(x, keys, np.uint64(7), thresholds([0.5, 0.1]), out)
    assert (out == np.where(uniforms(keys, 7, 500) < np.array([[0.5], [0.1]]), x, 0)).all()


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000])
def test_l1_norms_are_sums_of_magnitudes(n):
    x, _ = block(n, 3, n, grid=False)
    np.testing.assert_allclose(random_kernels.l1_norms(x), np.abs(x.astype(np.float64)).sum(1), rtol=1e-14)


@given(seed=seeds, n=st.integers(1, 300), grid=st.booleans())
def test_magnitudes_are_ordered_as_a_stable_sort_orders_them(seed, n, grid):
    x, _ = block(seed, 1, n, grid=grid)
    order = np.empty(n, np.int64)
    rank_kernels.order_of(x[0], order, np.empty(n, np.uint64), np.empty(n, np.uint64))
    assert order.tolist() == np.argsort(np.abs(x[0]), kind="stable").tolist()


@pytest.mark.parametrize("n", [48, 49, 5000, 5999, 6000, 20_000])
def test_a_long_row_of_extremes_is_ordered(n):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=n) * 10.0 ** rng.integers(-44, 38, n)).astype(np.float32)
    x[: n // 3] = x[n // 2]
    order = np.empty(n, np.int64)
    rank_kernels.order_of(x, order, np.empty(n, np.uint64), np.empty(n, np.uint64))
    assert order.tolist() == np.argsort(np.abs(x), kind="stable").tolist()


def test_a_zero_vote_elects_nobody_or_who_the_rule_says():
    votes = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 1.0, 0.0]])
    assert elect(votes).tolist() == [0, 1, 0]
    assert elect(votes, tie=1.0).tolist() == [1, 1, 1]
    assert agree(votes, elect(votes)).tolist() == [0, 1.5, 0]
    assert fuse(votes, [1.0, 1.0], Rule(tie=1.0)).tolist() == [1, 1.5, 0]


@given(seed=seeds, order=st.permutations(range(5)))
def test_votes_that_cancel_to_within_rounding_do_not_depend_on_the_order(seed, order):
    x, _ = block(seed, 4, 20, grid=False)
    wide = x.astype(np.float64) / 3
    rows = torch.from_numpy(np.vstack([wide, -wide.sum(0, keepdims=True)]))
    assert (elect(rows) == 0).all()
    assert (elect(rows[list(order)]) == 0).all()


@given(seed=seeds, n=st.integers(1, 40), k=st.integers(1, 40))
def test_bars_decide_as_the_bit_patterns_do(seed, n, k):
    x, _ = block(seed, 1, n, grid=True)
    pattern = np.sort(np.abs(x[0]).view(np.uint32))[-min(k, n)].astype(np.int64)
    by_pattern = keep(torch.from_numpy(x), torch.tensor([pattern]))
    assert (by_pattern.numpy()[0] == np.where(np.abs(x[0]) >= bars([pattern])[0], x[0], 0)).all()


def test_no_finite_number_reaches_the_bar_of_infinity():
    largest = torch.tensor([[3.4028234663852886e38, 1.0]])
    assert keep(largest, torch.tensor([0x7F800000])).tolist() == [[0.0, 0.0]]
