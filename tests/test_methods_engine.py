"""What the engine promises for every method: the same bytes however it is run; compiled loops change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import taskvec as tv
from taskvec import methods
from taskvec.delta import rounded
from taskvec.engine import folding, merging
from taskvec.errors import NonFiniteError
from taskvec.testing import evaluate, fit, named
from taskvec.testing.evaluation import check_close, spaces
from taskvec.testing.strategies import stacks

NAMED = named()
COMPILED = [n for n in methods.names() if methods.get(n).kernel is not None]
RANDOM = ("dare", "dare_linear", "dare_ties", "della", "della_linear")


@pytest.mark.parametrize("block", [7, 64, 1000])
@pytest.mark.parametrize(("name", "index"), [(n, i) for n in methods.names() for i in range(len(oracles.settings(n)))])
def test_the_size_of_blocks_makes_no_difference(name, index, block, monkeypatch):
    options = oracles.settings(name)[index]
    for points in spaces(methods.get(name)):
        rows = fit(name, NAMED["several_scales"], points=points)
        expected = evaluate(name, rows, points=points, **options)
        with monkeypatch.context() as patch:
            patch.setattr(merging, "BLOCK", block)
            patch.setattr(folding, "BLOCK", block)
            found = evaluate(name, rows, points=points, **options)
        check_close(found, expected, rows, what=f"{name} in blocks of {block}", rtol=1e-7)


@pytest.mark.parametrize("name", COMPILED)
@settings(max_examples=15)
@given(drawn=stacks(), index=st.integers(0, 20))
def test_compiled_loops_compute_what_the_plain_function_does_on_drawn_inputs(name, drawn, index):
    options = oracles.settings(name)
    agree(name, drawn, options[index % len(options)])


def agree(name, rows, options):
    method = methods.get(name)
    for points in spaces(method):
        fitted = fit(method, rows, points=points)
        expected = evaluate(replace(method, kernel=None), fitted, points=points, **options)
        found = evaluate(method, fitted, points=points, **options)
        check_close(found, expected, fitted, what=f"the compiled {name}", rtol=1e-7 if points else 1e-13)


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_keeps_other_entries_and_the_same_seed_the_same(name):
    rows = {"w": np.ones((2, 400), np.float32)}
    one, same, other = (evaluate(name, rows, seed=s, density=0.5)["w"] for s in (1, 1, 2))
    assert (one == same).all()
    assert 100 < (one != other).sum() < 400


@pytest.mark.parametrize("name", RANDOM)
def test_random_entries_follow_the_names_of_tasks_and_tensors(name):
    rows = {"w": np.ones((2, 400), np.float32)}
    one = evaluate(name, rows, density=0.5)["w"]
    swapped = evaluate(name, rows, density=0.5, tasks=["1", "0"])["w"]
    renamed = evaluate(name, rows, density=0.5, tasks=["0", "x"])["w"]
    elsewhere = evaluate(name, {"v": rows["w"]}, density=0.5)["v"]
    assert (one == swapped).all()
    assert (one != renamed).any()
    assert (one != elsewhere).any()


DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn]


@pytest.mark.parametrize("base", DTYPES)
@pytest.mark.parametrize("tuned", DTYPES)
def test_a_difference_is_read_in_float32_as_its_float64_values_round(tuned, base):
    rng = torch.Generator().manual_seed(0)
    models = [{"w": (torch.randn(70_000, generator=rng)).to(d)} for d in (tuned, base)]
    leaf = (tv.Checkpoint.from_tensors(models[0]) - tv.Checkpoint.from_tensors(models[1])).single()
    quick, slow = np.empty(69_990, np.float32), np.empty(69_990, np.float32)
    assert leaf.read32(quick, "w", 7) == rounded(leaf, slow, "w", 7) == 0
    assert quick.tobytes() == slow.tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_counted_and_refused_by_name(dtype, bad):
    base = tv.Checkpoint.from_tensors({"w": torch.zeros(9, dtype=dtype)})
    tuned = torch.ones(9, dtype=dtype)
    tuned[4] = bad
    vectors = {"fine": tv.Checkpoint.from_tensors({"w": torch.ones(9, dtype=dtype)}) - base}
    vectors["broken"] = tv.Checkpoint.from_tensors({"w": tuned}) - base
    assert vectors["broken"].single().read32(np.empty(9, np.float32), "w", 0) == 1
    with pytest.raises(NonFiniteError, match="tensor 'w' has NaN or Inf in 'broken'"):
        tv.merge("dare", vectors)["w"]


def test_what_float32_cannot_hold_is_refused_by_name():
    vector = tv.TaskVector.from_tensors({"w": torch.tensor([1e300], dtype=torch.float64)})
    with pytest.raises(NonFiniteError, match="tensor 'w' has a value beyond the range of float32 in '0'"):
        tv.merge("ties", [vector])["w"]
