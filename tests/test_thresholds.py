"""The k-th largest magnitude of a stream against sorting, and what a density keeps."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvec.errors import ParameterError
from taskvec.ops.thresholds import kept, kth_largest_pattern, pattern_of, select

numbers = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e-30 + 1e-37])


def sorted_patterns(x: np.ndarray) -> list[int]:
    return sorted(np.abs(x).astype(np.float32).view(np.uint32).tolist(), reverse=True)


def cut(x: np.ndarray, size: int) -> list[np.ndarray]:
    return [x[i : i + size] for i in range(0, x.size, size)]


@given(x=st.lists(numbers, min_size=1, max_size=50), size=st.integers(1, 60), data=st.data())
def test_the_kth_largest_is_that_of_the_sorted_list_whatever_the_blocks(x, size, data):
    values = np.array(x, np.float64)
    k = data.draw(st.integers(1, values.size))
    assert kth_largest_pattern(lambda: cut(values, size), k) == sorted_patterns(values)[k - 1]


def test_the_kth_largest_of_many_ties_and_zeros_is_exact():
    values = np.r_[np.zeros(500), np.full(300, 0.25), -np.full(300, 0.25), 1e-30, 2.0]
    expected = sorted_patterns(values)
    for k in (1, 2, 600, 601, 602, 603, values.size):
        assert kth_largest_pattern(lambda: cut(values, 97), k) == expected[k - 1]


def test_doubles_are_ranked_as_the_float32_numbers_they_round_to():
    values = np.array([1.0, 1.0 + 2.0**-30, 1e300, 1e-300])
    assert [kth_largest_pattern(lambda: [values], k) for k in (1, 2, 3, 4)] == [0x7F800000, 0x3F800000, 0x3F800000, 0]


def test_empty_blocks_do_not_count():
    assert kth_largest_pattern(lambda: [np.empty(0), np.array([3.0]), np.empty(0)], 1) == pattern_of(-3.0)


def test_nan_is_larger_than_any_number():
    values = np.array([1.0, np.nan, -np.inf, np.nan, 2.0])
    expected = [pattern_of(v) for v in (np.nan, np.nan, np.inf, 2.0, 1.0)]
    assert [kth_largest_pattern(lambda: [values], k) for k in (1, 2, 3, 4, 5)] == expected


@pytest.mark.parametrize(("k", "expected"), [(1, float("nan")), (2, float("nan")), (3, 5.0), (4, 1.0)])
def test_nan_ranks_above_every_number(k, expected):
    values = np.array([1.0, np.nan, -5.0, -np.nan])
    assert kth_largest_pattern(lambda: cut(values, 3), k) == pattern_of(expected)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_a_rank_that_does_not_exist_is_refused(k):
    with pytest.raises(ParameterError, match=f"there is no entry number {k} among 3"):
        kth_largest_pattern(lambda: [np.array([1.0, 2.0, 3.0])], k)


@given(x=st.lists(numbers, max_size=40), threshold=numbers)
def test_selection_keeps_the_entries_that_reach_the_threshold_and_never_a_zero(x, threshold):
    values = np.array(x, np.float64)
    positions, picked = select(values, pattern_of(threshold))
    expected = [i for i, v in enumerate(values) if v != 0 and abs(np.float32(v)) >= abs(np.float32(threshold))]
    assert positions.tolist() == expected
    assert picked.tolist() == values.astype(np.float32)[expected].tolist()


@given(x=st.lists(numbers, min_size=1, max_size=40), data=st.data())
def test_a_threshold_at_the_kth_largest_keeps_k_entries_and_its_ties(x, data):
    values = np.array(x, np.float64)
    k = data.draw(st.integers(1, values.size))
    pattern = kth_largest_pattern(lambda: [values], k)
    ties = [v for v in values if v != 0 and pattern_of(v) >= pattern]
    assert select(values, pattern)[0].size == len(ties)


@pytest.mark.parametrize(
    ("density", "n", "expected"),
    [
        (0.07, 100, 8),
        (0.1, 30, 3),
        (0.2, 11, 3),
        (1.0, 5, 5),
        (1e-9, 5, 1),
        (1e-9, 0, 0),
        (0.29, 100, 29),
        (1 / 3, 3, 1),
    ],
)
def test_a_density_keeps_the_ceiling_of_its_share_and_at_least_one(density, n, expected):
    assert kept(density, n) == expected


@given(st.floats(min_value=0.0, max_value=1.0, exclude_min=True), st.integers(1, 10**9))
def test_a_density_keeps_the_ceiling_of_the_float64_product(density, n):
    assert kept(density, n) == max(1, math.ceil(Fraction(density * n)))
