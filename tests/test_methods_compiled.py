"""Compiled merges against the plain functions, under real states; and the same bytes for any number of threads."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracles
import taskvec as tv
from taskvec import methods
from taskvec.ops import competition_kernels, kernels, thresholds
from taskvec.ops.gram import column_grams, gram_of, products, row_grams, unit_of, units
from taskvec.testing import evaluate, fit, named
from taskvec.testing.evaluation import check_close, spaces

COMPILED = [name for name in methods.names() if methods.get(name).kernel is not None]
RUNS = [(name, i) for name in COMPILED for i in range(len(oracles.settings(name)))]
CASES = ["ordinary", "many_tasks", "opposed", "equal_magnitudes", "sparse", "signed_zeros", "scalar", "beyond_a_block"]
NAMED = named()
MODEL = {
    "embedding": np.random.default_rng(0).normal(size=(3, 300, 700)).astype(np.float32),
    "bias": np.random.default_rng(1).normal(size=(3, 70_000)).astype(np.float32),
    "scale": np.ones((3,), np.float32),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "index"), RUNS)
def test_the_compiled_merge_is_the_plain_one(name, index, case):
    method = methods.get(name)
    plain = dataclasses.replace(method, kernel=None)
    for points in spaces(method):
        rows = fit(method, NAMED[case], points=points)
        options = {"points": points, **oracles.settings(name)[index]}
        found, expected = evaluate(method, rows, **options), evaluate(plain, rows, **options)
        check_close(found, expected, rows, what=f"{name}, compiled,", rtol=1e-7)


@pytest.mark.parametrize("name", methods.names())
def test_the_number_of_threads_is_no_input(name):
    method, options = methods.get(name), oracles.settings(name)[-1]
    for points in spaces(method):
        rows = fit(method, MODEL, points=points)
        first, *others = [evaluate(method, rows, points=points, threads=n, **options) for n in (1, 2, 4)]
        for other in others:
            assert all((first[n].view(np.uint64) == other[n].view(np.uint64)).all() for n in rows)


CUTS = [0, 1, 65_536, 65_537, 69_999, 70_000]


def models(rows):
    return [{n: torch.from_numpy(np.array(x[i])) for n, x in rows.items()} for i in range(len(rows["bias"]))]


@pytest.mark.parametrize("name", [n for n in methods.names() if methods.get(n).space != "point"])
def test_how_a_merged_vector_is_read_is_no_input(name):
    method = methods.get(name)
    vectors = [tv.TaskVector.from_tensors(model) for model in models(fit(method, MODEL))]
    whole, pieces = (tv.merge(method, vectors, **oracles.settings(name)[0]) for _ in range(2))
    parts = [pieces.values("bias", a, b) for a, b in pairwise(CUTS)]
    assert (np.concatenate(parts) == whole.values("bias", 0, 70_000)).all()


@pytest.mark.parametrize("name", [n for n in methods.names() if methods.get(n).space != "vector"])
def test_how_a_merged_checkpoint_is_read_is_no_input(name):
    method = methods.get(name)
    points = [tv.Checkpoint.from_tensors(model) for model in models(fit(method, MODEL, points=True))]
    base = points.pop(0) if method.base == "required" else None
    whole, pieces = (tv.merge(method, points, base=base, **oracles.settings(name)[0]).source for _ in range(2))
    parts = [pieces.bits("bias", a, b) for a, b in pairwise(CUTS)]
    assert (np.concatenate(parts) == whole.bits("bias", 0, 70_000)).all()


# --- order statistics ----------------------------------------------------------------------------------------

numbers = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e30, -1e30])


@given(x=st.lists(numbers, min_size=1, max_size=60), missing=st.integers(0, 5), data=st.data())
def test_order_statistics_of_numbers_of_any_sign_are_those_of_the_sorted_list(x, missing, data):
    rows = np.array([[*x, *[np.nan] * missing]], np.float32)
    rank = data.draw(st.integers(1, len(x)))
    upper = thresholds.upper_counts(rows)
    assert upper.sum() == len(x)
    at, within = thresholds.locate(upper[0], rank)
    lower = thresholds.lower_counts(rows, np.array([[at]]))
    found = thresholds.number_of(at, thresholds.locate(lower[0, 0], within)[0])
    assert found == np.sort(rows[0, : len(x)])[::-1][rank - 1]


@pytest.mark.parametrize("number", [0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf])
def test_a_number_is_found_again_from_the_halves_of_its_key(number):
    row = np.array([[number]], np.float32)
    at, _ = thresholds.locate(thresholds.upper_counts(row)[0], 1)
    lower = thresholds.lower_counts(row, np.array([[at]]))[0, 0]
    assert thresholds.number_of(at, thresholds.locate(lower, 1)[0]) == np.float32(number)


def test_a_histogram_is_a_sum_of_histograms():
    x = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    halves = thresholds.upper_counts(x[:, :300]) + thresholds.upper_counts(x[:, 300:])
    assert (halves == thresholds.upper_counts(x)).all()
    counts = np.zeros(65_536, np.int64)
    kernels.key_histogram(x[0], -1, counts)
    assert (counts == thresholds.upper_counts(x)[0]).all()


# --- Gram matrices and special functions -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (1, 6), (6, 1), (2, 3, 4)])
@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_gram_matrices_of_tensors_rows_and_columns_are_their_definitions(shape, tasks):
    x = np.random.default_rng(0).normal(size=(tasks, *shape)).astype(np.float32)
    block, stacked = x.reshape(tasks, -1), torch.from_numpy(x)
    assert products(block) == pytest.approx(gram_of(stacked, "tensor").numpy(), rel=1e-12)
    assert row_grams(block, shape) == pytest.approx(gram_of(stacked, "row").numpy(), rel=1e-12)
    assert column_grams(block, shape) == pytest.approx(gram_of(stacked, "column").numpy(), rel=1e-12)


@pytest.mark.parametrize(
    ("unit", "shape", "expected"),
    [
        ("tensor", (4, 3), (12, 1)),
        ("row", (4, 3), (3, 4)),
        ("column", (4, 3), (1, 4 * 3 // 4)),
        ("row", (2, 3, 4), (4, 6)),
        ("column", (2, 3, 4), (1, 12)),
        ("row", (5,), (5, 1)),
        ("column", (), (1, 1)),
        ("row", (2, 0, 3), (1, 1)),
    ],
)
def test_units_of_a_tensor(unit, shape, expected):
    assert units(unit, shape) == expected


@pytest.mark.parametrize("unit", ["tensor", "row", "column"])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (1, 6), (6, 1), (2, 3, 4)])
def test_every_range_of_entries_knows_its_units(shape, unit):
    inner, count = units(unit, shape)
    entries = np.arange(int(np.prod(shape)))
    for start in entries:
        for stop in range(start, entries.size + 1):
            assert (unit_of(unit, shape, start, stop) == entries[start:stop] // inner % count).all()


def test_the_vectorised_functions_are_the_libraries_to_two_units():
    x = np.concatenate([np.linspace(-1, 1, 20_001), [1e-300, -1e-10]])
    found = np.array([competition_kernels.tanh(v) for v in x])
    assert found == pytest.approx(np.tanh(x), rel=5e-16, abs=0)
    x = np.linspace(-700, 0, 20_001)
    found = np.array([competition_kernels.exp(v) for v in x])
    assert found == pytest.approx(np.exp(x), rel=5e-16, abs=0)
