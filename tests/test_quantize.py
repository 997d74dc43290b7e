"""Group-wise quantisation: the stated error bound, exactly, for every size of number; and the packing of nibbles."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import torch_values
from taskvec.ops.bits import Floats
from taskvec.ops.quantize import SCALE, Quantized, add_dequantized, pack_nibbles, quantize

limits = pytest.mark.parametrize("limit", [7, 127])


def scales_of(q: Quantized, group: int, n: int) -> Floats:
    return np.repeat(torch_values(q.scales, SCALE), group)[:n]


def check_bound(x: Floats, *, group: int, limit: int) -> Quantized:
    """|x - q s| <= s / 2 in exact arithmetic; the quotient x / s is itself rounded, hence the last 2^-52."""
    q = quantize(x, group=group, limit=limit)
    assert np.abs(q.codes.astype(int)).max(initial=0) <= limit
    for value, code, scale in zip(x.tolist(), q.codes.tolist(), scales_of(q, group, x.size).tolist(), strict=True):
        error = abs(Fraction(value) - code * Fraction(scale))
        assert error <= Fraction(scale) / 2 * (1 + Fraction(limit, 2**51)), (value, code, scale)
    return q


@limits
@pytest.mark.parametrize("size", [1e-300, 1e-40, 1e-30, 1e-8, 1.0, 1e30, 3e38])
@pytest.mark.parametrize("n", [1, 31, 32, 33, 100])
def test_the_error_is_at_most_half_a_scale_for_deltas_of_any_size(limit, size, n):
    check_bound(np.random.default_rng(n).uniform(-size, size, n), group=32, limit=limit)


@limits
@given(x=st.lists(st.floats(min_value=-3e38, max_value=3e38), max_size=40), group=st.sampled_from([1, 4, 16]))
def test_the_error_is_at_most_half_a_scale_for_any_numbers(limit, x, group):
    check_bound(np.array(x, np.float64), group=group, limit=limit)


@limits
def test_a_scale_is_the_smallest_bfloat16_that_clips_nothing(limit):
    x = np.random.default_rng(0).normal(size=64) * 2.0 ** np.arange(-32, 32)
    q = quantize(x, group=1, limit=limit)
    before = torch_values((q.scales - np.uint16(1)), SCALE)
    assert (torch_values(q.scales, SCALE) * limit >= np.abs(x)).all()
    assert (before * limit < np.abs(x)).all()


@limits
def test_a_group_of_zeros_has_a_zero_scale_and_reads_back_as_zeros(limit):
    x = np.array([0.0] * 8 + [-0.0] * 8 + [1.0] * 3)
    q = check_bound(x, group=8, limit=limit)
    assert q.scales[:2].tolist() == [0, 0]
    back = np.zeros(x.size)
    add_dequantized(back, 1.0, q.codes, q.scales, group=8, start=0)
    assert back[:16].tolist() == [0.0] * 16


def test_nothing_has_no_groups():
    q = quantize(np.empty(0), group=16, limit=7)
    assert (q.codes.size, q.scales.size, q.squared_error) == (0, 0, 0.0)


@limits
def test_the_squared_error_is_that_of_what_reads_back(limit):
    x = np.random.default_rng(3).normal(size=1000)
    q = quantize(x, group=64, limit=limit)
    back = np.zeros(x.size)
    add_dequantized(back, 1.0, q.codes, q.scales, group=64, start=0)
    assert q.squared_error == pytest.approx(float(((x - back) ** 2).sum()), rel=1e-12)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("start", "stop"), [(0, 37), (5, 20), (16, 37), (36, 37), (7, 7)])
def test_any_range_of_a_quantized_tensor_reads_back_alike(packed, start, stop):
    x = np.random.default_rng(4).normal(size=37)
    q = quantize(x, group=16, limit=7)
    codes = pack_nibbles(q.codes) if packed else q.codes[start:stop]
    total = np.ones(stop - start)
    add_dequantized(total, -0.5, codes, q.scales, group=16, start=start)
    expected = 1.0 + -0.5 * (q.codes * scales_of(q, 16, x.size))
    assert np.array_equal(total, expected[start:stop])


@given(st.lists(st.integers(-7, 7), max_size=9))
def test_two_codes_a_byte_the_even_position_in_the_low_half(codes):
    packed = pack_nibbles(np.array(codes, np.int8))
    assert packed.dtype == np.uint8
    assert packed.size == (len(codes) + 1) // 2
    halves = [half - 8 for byte in packed.tolist() for half in (byte & 15, byte >> 4)]
    assert halves[: len(codes)] == codes
    assert halves[len(codes) :] == [0] * (len(halves) - len(codes))
