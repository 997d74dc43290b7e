"""The bit arithmetic against slow references: torch for what patterns mean, rational table search for rounding."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import (
    MOVING,
    SMALL,
    all_patterns,
    boundary_values,
    has_negative_zero,
    magnitudes,
    reference_encode,
    torch_values,
)
from taskvec.ops import bits, kernels
from taskvec.ops.bits import Block, Floats, bits_dtype
from taskvec.ops.dtypes import DTYPES, DType

F64, F32, BF16, F16 = (DTYPES[c] for c in ("F64", "F32", "BF16", "F16"))
PAIRS = [("BF16", "BF16"), ("BF16", "F32"), ("F32", "F32"), ("F16", "F8_E4M3"), ("F8_E5M2FNUZ", "F16"), ("F64", "F64")]

named = pytest.mark.parametrize("dtype", MOVING, ids=str)
small = pytest.mark.parametrize("dtype", SMALL, ids=str)
pairs = pytest.mark.parametrize(("before", "after"), PAIRS)


def check_codes(codes: np.ndarray, y: Floats, dtype: DType) -> None:
    back = bits.decode(Block(codes, dtype))
    for code, value, read in zip(codes.tolist(), y.tolist(), back.tolist(), strict=True):
        expected = reference_encode(value, dtype)
        if expected is None:
            assert math.isnan(read), (value, code)
        else:
            assert code == expected, (value, code, expected)


def same_values(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal, NaN for NaN and the signs of zeros included."""
    numbers = ~np.isnan(a)
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a)[numbers], np.signbit(b)[numbers])


def some_bits(dtype: DType, n: int, seed: int) -> np.ndarray:
    """Random patterns, all finite, with zeros of both signs, subnormals and the largest numbers among them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << dtype.bits, 4 * n + 64, dtype=np.uint64).astype(bits_dtype(dtype))
    codes[:4] = [0, 1, 1 << (dtype.bits - 1), (1 << (dtype.bits - 1)) + 1]
    finite = np.isfinite(bits.decode(Block(codes, dtype)))
    return np.ascontiguousarray(codes[finite][:n])


# --- decode and encode -----------------------------------------------------------------------------------------------


@small
def test_every_pattern_decodes_to_what_torch_reads(dtype):
    patterns = all_patterns(dtype)
    assert same_values(bits.decode(Block(patterns, dtype)), torch_values(patterns, dtype))


@named
def test_values_are_read_rounded_once_to_float32_and_the_others_counted(dtype):
    codes = all_patterns(dtype) if dtype.bits <= 16 else bits.encode(boundary_values(dtype), dtype)
    codes = codes.astype(bits_dtype(dtype))
    out = np.empty(codes.size, np.float32)
    with np.errstate(over="ignore"):
        expected = bits.decode(Block(codes, dtype)).astype(np.float32)
    assert bits.read32(Block(codes, dtype), out) == np.count_nonzero(~np.isfinite(expected))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_wide_patterns_decode_to_what_torch_reads(dtype):
    codes = np.random.default_rng(0).integers(0, 1 << dtype.bits, 5000, dtype=np.uint64, endpoint=False)
    patterns = codes.astype(bits_dtype(dtype))
    assert same_values(bits.decode(Block(patterns, dtype)), torch_values(patterns, dtype))


@small
def test_every_number_encodes_to_its_own_pattern(dtype):
    patterns = all_patterns(dtype)
    values = bits.decode(Block(patterns, dtype))
    numbers = ~np.isnan(values)
    again = bits.encode(values, dtype)
    assert np.array_equal(again[numbers], patterns[numbers])
    assert np.isnan(bits.decode(Block(again[~numbers], dtype))).all()


@small
def test_all_bfloat16_and_float16_numbers_round_as_in_torch(dtype):
    for source in (BF16, F16):
        values = torch_values(all_patterns(source), source)
        values = values[np.isfinite(values)]
        expected = torch.from_numpy(values).float().to(getattr(torch, dtype.torch)).double().numpy()
        got = bits.decode(Block(bits.encode(values, dtype), dtype))
        inside = np.abs(values) <= magnitudes(dtype.code)[0][-1]  # on overflow torch saturates in some types
        assert same_values(got[inside], expected[inside])


@named
def test_numbers_at_the_ties_and_the_extremes_round_once_to_nearest_even(dtype):
    y = boundary_values(dtype) if dtype.bits < 64 else np.array([0.0, -0.0, 5e-324, 1e308, np.inf, -np.inf, np.nan])
    check_codes(bits.encode(y, dtype), y, dtype)


@pytest.mark.parametrize("dtype", [d for d in MOVING if d.bits < 64], ids=str)
@given(data=st.data())
def test_any_double_rounds_once_to_nearest_even(dtype, data):
    largest = magnitudes(dtype.code)[0][-1] if dtype.small else 3.5e38
    inside = st.floats(min_value=-2 * largest, max_value=2 * largest, allow_nan=False)
    y = np.array(data.draw(st.lists(st.floats() | inside, min_size=1, max_size=30)), np.float64)
    check_codes(bits.encode(y, dtype), y, dtype)


@pytest.mark.parametrize(("dtype", "ulp"), [(BF16, 2.0**-7), (F16, 2.0**-10), (DTYPES["F8_E4M3"], 2.0**-3)], ids=str)
def test_a_number_just_off_a_tie_is_not_rounded_twice(dtype, ulp):
    above, below = 1 + ulp / 2 + 2.0**-45, 1 + 3 * ulp / 2 - 2.0**-45
    got = bits.decode(Block(bits.encode(np.array([above, below]), dtype), dtype))
    assert got.tolist() == [1 + ulp, 1 + ulp]
    twice = torch.tensor([above, below], dtype=torch.float64).float().to(getattr(torch, dtype.torch)).double()
    assert twice.tolist() == [1.0, 1 + 2 * ulp], "the trap is one: by way of float32 both go astray"


@named
def test_negative_zero_stays_where_the_type_has_one(dtype):
    code = int(bits.encode(np.array([-0.0]), dtype)[0])
    negative = dtype.bits > 16 or has_negative_zero(dtype)
    assert code == (1 << (dtype.bits - 1) if negative else 0)


@named
def test_counting_finds_every_entry_that_is_not_finite(dtype):
    y = np.array([1.0, np.nan, np.inf, -np.inf, 0.0, -1.0])
    assert bits.count_nonfinite(Block(bits.encode(y, dtype), dtype)) == 3


# --- sums ------------------------------------------------------------------------------------------------------------


@named
def test_a_scaled_block_is_added_in_float64(dtype):
    codes = some_bits(dtype, 500, 1)
    start = np.random.default_rng(2).normal(size=codes.size)
    total = start.copy()
    bits.add_scaled(total, 0.3, Block(codes, dtype))
    assert np.array_equal(total, start + 0.3 * torch_values(codes, dtype))


@pairs
def test_a_scaled_difference_is_added_in_float64(before, after):
    pb, pt = DTYPES[before], DTYPES[after]
    base, tuned = some_bits(pb, 400, 3), some_bits(pt, 400, 4)
    total = np.ones(400)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = 1.0 - 0.7 * (torch_values(tuned, pt) - torch_values(base, pb))
    bits.add_scaled_difference(total, -0.7, Block(tuned, pt), Block(base, pb))
    assert np.array_equal(total, expected, equal_nan=True)


@pytest.mark.parametrize(("rows", "rank", "columns"), [(3, 2, 5), (2, 1, 1100), (700, 3, 1)])
def test_a_scaled_product_is_the_same_in_blocks_of_any_size(rows, rank, columns):
    rng = np.random.default_rng(5)
    left, right = rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))
    expected = np.zeros((rows, columns))
    for k in range(rank):
        expected += left[:, k : k + 1] * right[k]
    total = np.zeros(rows * columns)
    edges = np.unique(np.r_[0, rng.integers(0, total.size, 7), total.size])
    for start, stop in itertools.pairwise(edges):
        bits.add_scaled_product(total[start:stop], 0.5, left, right, int(start))
    assert np.array_equal(total, 0.5 * expected.ravel())


# --- base + delta ----------------------------------------------------------------------------------------------------


@pairs
def test_base_plus_delta_is_summed_in_float64_and_rounded_once(before, after):
    pb, po = DTYPES[before], DTYPES[after]
    base = some_bits(pb, 300, 6)
    values = torch_values(base, pb)
    delta = np.random.default_rng(7).normal(size=base.size) * np.abs(values)
    out = np.empty(base.size, bits_dtype(po))
    with np.errstate(over="ignore"):
        total = values + delta
    bad = bits.displace(Block(base, pb), delta, Block(out, po))
    check_codes(out, np.where(delta == 0, values, total), po)
    assert bad == np.count_nonzero(~np.isfinite(torch_values(out, po)))


@pytest.mark.parametrize("kind", ["normal", "subnormal", "overflow", "halfway", "opposed", "nan"])
def test_bfloat16_is_displaced_as_any_other_dtype(kind):
    """Strips with nothing but normal results are computed by another loop than those with others."""
    dtype, rng = DTYPES["BF16"], np.random.default_rng(11)
    base = np.tile(all_patterns(dtype), 2)
    values = torch_values(base, dtype)
    base, values = base[np.isfinite(values)], values[np.isfinite(values)]
    if kind == "normal":
        base, values = (x[(abs(values) > 1e-30) & (abs(values) < 1e30)] for x in (base, values))
    delta = {
        "normal": rng.normal(size=base.size) * abs(values) * rng.choice([0.0, 1e-3, 1.0], base.size),
        "subnormal": -values + rng.normal(size=base.size) * 1e-39,
        "overflow": values * rng.choice([0.0, 1e-3, 1e3], base.size),
        "halfway": abs(values) * 2.0**-8 * rng.choice([0.5, 1.0, 1.0 + 2.0**-40, 1.0 - 2.0**-40], base.size),
        "opposed": -values,
        "nan": np.where(rng.random(base.size) < 0.001, np.nan, values),
    }[kind]
    out, expected = np.empty_like(base), np.empty_like(base)
    bad = bits.displace(Block(base, dtype), delta, Block(out, dtype))
    p = bits.parameters(dtype)
    assert bad == kernels.displace(base, p, delta, expected, p, True)
    assert np.array_equal(out, expected)


@small
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_where_the_delta_is_zero_every_bit_of_the_base_stays_even_of_a_nan(dtype, zero):
    base = all_patterns(dtype)
    out = np.empty_like(base)
    bad = bits.displace(Block(base, dtype), np.full(base.size, zero), Block(out, dtype))
    assert np.array_equal(out, base)
    assert bad == np.count_nonzero(~np.isfinite(torch_values(base, dtype)))


@pytest.mark.parametrize(("before", "after"), [("BF16", "F32"), ("F32", "BF16"), ("F16", "F64"), ("F64", "F32")])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_where_the_delta_is_zero_another_dtype_keeps_the_sign_of_zero(before, after, zero):
    pb, po = DTYPES[before], DTYPES[after]
    base = bits.encode(np.array([-0.0, 0.0, -1.5]), pb)
    out = np.empty(3, bits_dtype(po))
    bits.displace(Block(base, pb), np.full(3, zero), Block(out, po))
    assert np.signbit(torch_values(out, po)).tolist() == [True, False, True]


# --- tuned - base ----------------------------------------------------------------------------------------------------


def _difference(base: np.ndarray, pb: DType, tuned: np.ndarray, pt: DType, pd: DType):
    delta = np.empty(base.size, bits_dtype(pd))
    return delta, bits.difference(Block(base, pb), Block(tuned, pt), Block(delta, pd))


@pytest.mark.parametrize(
    ("before", "after", "stored"),
    [
        ("BF16", "BF16", "BF16"),
        ("BF16", "F32", "F32"),
        ("F32", "F32", "F32"),
        ("F16", "F16", "F64"),
        ("F64", "F64", "F64"),
    ],
)
def test_a_difference_says_exactly_where_base_plus_delta_is_not_tuned(before, after, stored):
    pb, pt, pd = (DTYPES[c] for c in (before, after, stored))
    base, tuned = some_bits(pb, 400, 8), some_bits(pt, 400, 9)
    tuned[:40] = bits.encode(bits.decode(Block(base[:40], pb)), pt)  # equal, and opposed zeros
    base[40:44], tuned[40:44] = (
        bits.encode(np.array([0, -0.0, 0, -0.0]), pb),
        bits.encode(np.array([0, 0, -0.0, -0.0]), pt),
    )
    delta, result = _difference(base, pb, tuned, pt, pd)
    with np.errstate(over="ignore"):
        exact = torch_values(tuned, pt) - torch_values(base, pb)
    finite = np.isfinite(exact)
    check_codes(delta, np.where(finite, exact, 0.0), pd)
    assert result.nonfinite == np.count_nonzero(~finite)
    stored_values = torch_values(delta, pd)
    assert result.overflow == np.count_nonzero(~np.isfinite(stored_values))
    out = np.empty(tuned.size, bits_dtype(pt))
    bits.displace(Block(base, pb), np.nan_to_num(stored_values, posinf=np.inf, neginf=-np.inf), Block(out, pt))
    assert np.array_equal(result.wrong.astype(bool), out != tuned)


def test_a_difference_marks_what_no_delta_can_restore():
    base = np.array([1.0, 1e10, 0.0, -0.0, 2.0**20], np.float32)
    tuned = np.array([1.5, 1e-40, -0.0, 0.0, 1.0], np.float32)
    _, result = _difference(base.view(np.uint32), F32, tuned.view(np.uint32), F32, F32)
    assert result.wrong.tolist() == [0, 1, 1, 1, 0]
    assert (result.overflow, result.nonfinite) == (0, 0)


def test_opposed_extremes_overflow_float32_and_fit_float64():
    base, tuned = (np.array([x], np.float32).view(np.uint32) for x in (-3e38, 3e38))
    assert _difference(base, F32, tuned, F32, F32)[1].overflow == 1
    _, wide = _difference(base, F32, tuned, F32, F64)
    assert (wide.overflow, wide.nonfinite, wide.wrong.tolist()) == (0, 0, [0])


def test_non_finite_operands_leave_a_zero_delta_and_are_counted():
    base = np.array([np.nan, np.inf, 1.0, np.inf], np.float32).view(np.uint32)
    tuned = np.array([np.nan, 1.0, -np.inf, np.inf], np.float32).view(np.uint32)
    delta, result = _difference(base, F32, tuned, F32, F32)
    assert delta.tolist() == [0, 0, 0, 0]
    assert result.nonfinite == 4
    assert result.wrong.tolist() == [0, 1, 1, 0], "equal bits need no patch: a zero delta keeps them"


@pytest.mark.parametrize(
    "pattern", [0, 1, 0x7F, 0x80, 0x3F80, 0x3F7F, 0x7F7F, 0x7F80, 0x7FC0, 0x8000, 0x8001, 0xC2F1, 0xFF7F]
)
def test_the_bf16_route_is_the_general_one_on_every_pair_with(pattern):
    dtype = DTYPES["BF16"]
    tuned = np.arange(1 << 16, dtype=np.uint16)
    base, delta, general = np.full_like(tuned, pattern), np.empty_like(tuned), np.empty_like(tuned)
    found = bits.difference(Block(base, dtype), Block(tuned, dtype), Block(delta, dtype))
    wrong, p = np.empty(tuned.size, np.uint8), bits.parameters(dtype)
    counts = kernels.difference(base, p, tuned, p, general, p, wrong, True)
    assert np.array_equal(delta, general)
    assert np.array_equal(found.wrong, wrong)
    assert (found.overflow, found.nonfinite) == counts
