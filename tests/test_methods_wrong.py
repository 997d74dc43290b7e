"""The contract has teeth: methods that are wrong in one way each are caught, by name, tensor and entry."""

import numpy as np
import pytest
import torch

from taskvec.errors import ParameterError
from taskvec.methods import _method
from taskvec.methods._method import merge_method
from taskvec.methods._parameters import Seed
from taskvec.methods._place import Place
from taskvec.testing import ContractError, check_law, check_method, check_reference, evaluate, fit, named

NAMED = named()


@pytest.fixture
def toy(monkeypatch):
    """A registry of this test's own."""
    monkeypatch.setattr(_method, "_methods", dict(_method._methods))

    def register(law, function, **options):
        return merge_method(source="none", laws={law} if isinstance(law, str) else law, **options)(function)

    return register


def first(deltas):
    """Depends on the order."""
    return deltas[0]


def squares(deltas):
    """Not homogeneous."""
    return (deltas * deltas.abs()).sum(0)


def magnitudes(deltas):
    """Homogeneous for positive factors only."""
    return deltas.abs().sum(0)


def plus_one(deltas):
    """Zeros do not stay."""
    return deltas.sum(0) + 1e-30


def total(deltas):
    """Not idempotent."""
    return deltas.sum(0)


def largest(deltas):
    """Not additive."""
    return deltas.amax(0)


WRONG = [
    ("permutation", first, "depends on the order"),
    ("homogeneous", squares, r"f\(2 x\) is not 2 f\(x\)"),
    ("homogeneous", magnitudes, r"f\(-1 x\) is not -1 f\(x\)"),
    ("zero", plus_one, "does not map zeros to zero"),
    ("idempotent", total, "does not return equal inputs"),
    ("additive", largest, "is not additive"),
]


@pytest.mark.parametrize(("law", "function", "message"), WRONG)
def test_a_law_that_is_declared_wrongly_fails_the_contract(law, function, message, toy):
    method = toy(law, function)
    with pytest.raises(ContractError, match=message):
        check_law(method, law, NAMED["ordinary"])
    with pytest.raises(ContractError, match="on the input 'ordinary'"):
        check_method(method, lambda stacks: {n: function(torch.from_numpy(x)) for n, x in stacks.items()})


@pytest.mark.parametrize("case", NAMED)
def test_a_sum_that_declares_all_that_it_obeys_passes(case, toy):
    method = toy({"permutation", "homogeneous", "zero", "additive"}, total)
    check_method(method, lambda stacks: {n: x.sum(0) for n, x in stacks.items()}, inputs={case: NAMED[case]})


def wobbly(deltas, *, seed: Seed = 0, at: Place):
    """Random numbers that depend on the order of the tasks, and not on their names."""
    generator = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(deltas.shape, generator=generator) < 0.5, deltas, 0.0).sum(0)


def test_random_numbers_must_follow_the_names_of_the_tasks(toy):
    with pytest.raises(ContractError, match="wobbly depends on the order of the tasks"):
        check_law(toy("permutation", wobbly), "permutation", NAMED["ordinary"])


@pytest.mark.parametrize("error", [1e-3, float("nan"), float("inf")])
def test_a_difference_from_the_reference_fails(error, toy):
    def off(stacks):
        out = {n: x.sum(0) for n, x in stacks.items()}
        out["layer.0.bias"][2] += error
        return out

    with pytest.raises(
        ContractError, match=r"total differs from its reference: tensor 'layer.0.bias' has .* at \(2,\)"
    ):
        check_reference(toy(set(), total), off, NAMED["several_scales"])


def test_a_reference_of_another_shape_fails(toy):
    with pytest.raises(ContractError, match=r"tensor 'w' has the shape"):
        check_reference(toy(set(), total), lambda s: {n: x.sum(0).ravel() for n, x in s.items()}, NAMED["ordinary"])


def test_a_law_must_exist(toy):
    with pytest.raises(ParameterError, match="'honesty' is not a law"):
        toy("honesty", first)


def test_inputs_are_cut_or_repeated_to_what_a_method_takes(toy):
    method = toy(set(), first, least=2, most=2)
    assert [len(fit(method, NAMED[c])["w"]) for c in ("one_task", "many_tasks", "opposed")] == [2, 2, 2]
    assert (fit(method, NAMED["one_task"])["w"][0] == NAMED["one_task"]["w"][0]).all()


def test_lists_among_the_parameters_are_spread_over_the_tasks():
    x = {"w": np.array([[1.0], [10.0], [100.0]], np.float32)}
    assert evaluate("task_arithmetic", x, coefficients=[1.0, 2.0])["w"].tolist() == [121.0]


def test_the_named_inputs_are_fresh_finite_float32():
    again = named()
    for case, stacks in NAMED.items():
        for name, x in stacks.items():
            assert x.dtype == np.float32
            assert np.isfinite(x).all()
            assert (again[case][name] == x).all()
            assert again[case][name] is not x
