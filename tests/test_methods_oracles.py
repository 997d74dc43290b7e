"""Every registered method against its slow float64 reference in `oracles/`; a method without one fails."""

import pytest
from hypothesis import given, settings

import oracles
from taskvec import methods
from taskvec.testing import check_reference, named
from taskvec.testing.strategies import stacks

RUNS = [(name, i) for name in methods.names() for i in range(len(oracles.settings(name)))]
NAMED = named()


def against_the_oracle(name, index, rows):
    oracle = oracles.load(name)
    check_reference(name, oracle.reference, rows, rtol=getattr(oracle, "RTOL", 1e-6), **oracles.settings(name)[index])


@pytest.mark.parametrize("name", methods.names())
def test_a_method_has_an_oracle(name):
    assert callable(oracles.load(name).reference)


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize(("name", "index"), RUNS)
def test_a_method_equals_its_oracle_on_the_named_inputs(name, index, case):
    against_the_oracle(name, index, NAMED[case])


@pytest.mark.parametrize(("name", "index"), RUNS)
@settings(max_examples=25)
@given(drawn=stacks())
def test_a_method_equals_its_oracle_on_drawn_inputs(name, index, drawn):
    against_the_oracle(name, index, drawn)
