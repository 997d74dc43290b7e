"""Every registered method × the laws it declares × the named adversarial inputs and drawn ones; through `tv.merge`."""

import pytest
from hypothesis import given, settings

import oracles
from taskvec import methods
from taskvec.testing import check_law, named
from taskvec.testing.strategies import stacks

LAWS = [(name, law) for name in methods.names() for law in sorted(methods.get(name).laws)]
NAMED = named()


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize(("name", "law"), LAWS)
def test_a_method_obeys_its_laws_on_the_named_inputs(name, law, case):
    check_law(name, law, NAMED[case], **oracles.settings(name)[0])


@pytest.mark.parametrize(("name", "law"), LAWS)
@settings(max_examples=25)
@given(drawn=stacks())
def test_a_method_obeys_its_laws_on_drawn_inputs(name, law, drawn):
    check_law(name, law, drawn, **oracles.settings(name)[0])
