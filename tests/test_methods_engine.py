"""What the engine promises for every method: the same bytes however it is run; compiled loops change nothing."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import taskvec as tv
from taskvec import methods
from taskvec.engine import folding, merging
from taskvec.testing import evaluate, fit, named
from taskvec.testing.evaluation import check_close, spaces
from taskvec.testing.strategies import stacks

NAMED = named()
COMPILED = [n for n in methods.names() if methods.get(n).kernel is not None]
COMPILED_RUNS = [(n, i) for n in COMPILED for i in range(len(oracles.settings(n)))]
RANDOM = ("dare", "dare_linear", "dare_ties", "della", "della_linear")


def large() -> dict[str, np.ndarray]:
    """Three tensors, two of them beyond a block, one just a block."""
    rng = np.random.default_rng(0)
    shapes = {"a": (301, 233), "b": (65_536,), "c": (70_001,), "d": ()}
    return {n: rng.normal(size=(3, *s)).astype(np.float32) for n, s in shapes.items()}


LARGE = large()


@pytest.mark.parametrize("name", methods.names())
def test_the_number_of_threads_changes_no_byte(name):
    options = oracles.settings(name)[0]
    for points in spaces(methods.get(name)):
        rows = fit(name, LARGE, points=points)
        one, *others = (evaluate(name, rows, points=points, threads=n, **options) for n in (1, 2, 4))
        for other in others:
            for tensor, values in one.items():
                assert values.tobytes() == other[tensor].tobytes()


@pytest.mark.parametrize("name", [n for n in methods.names() if methods.get(n).space != "point"])
def test_a_merge_reads_the_same_in_any_ranges(name):
    rows = fit(name, LARGE)
    vectors = {
        str(t): tv.TaskVector.from_tensors({n: tensor(x[t]) for n, x in rows.items()}) for t in range(len(rows["a"]))
    }
    merged = tv.merge(name, vectors, **oracles.settings(name)[0])
    for tensor_name in ("a", "c"):
        n = rows[tensor_name][0].size
        whole = merged.values(tensor_name, 0, n)
        for cuts in ((1, 65_535, 65_537), (232, 233, 234, 60_000)):
            edges = [0, *cuts, n]
            parts = [merged.values(tensor_name, a, b) for a, b in pairwise(edges)]
            assert np.concatenate(parts).tobytes() == whole.tobytes()


def tensor(x):
    import torch

    return torch.from_numpy(np.array(x))


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


@pytest.mark.parametrize("case", ["ordinary", "several_scales", "equal_magnitudes", "cancelling_votes", "conv_kernel"])
@pytest.mark.parametrize(("name", "index"), COMPILED_RUNS)
def test_compiled_loops_compute_what_the_plain_function_does(name, index, case):
    agree(name, NAMED[case], oracles.settings(name)[index])


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
