"""Expressions: what parses, what is refused and where the caret stands, and that they mean what Python would mean."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import ExpressionError, ParameterError, SpaceError, UnknownName
from taskvec.expression import evaluate, parse
from taskvec.vector import TaskVector

VECTORS = {name: TaskVector.from_tensors({"w": torch.tensor([1.0, 2.0]) + i}) for i, name in enumerate("abc")}


def coefficients(vector: TaskVector) -> dict[int, float]:
    return {id(leaf): c for c, leaf in vector.terms}


# --- what parses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical", "expected"),
    [
        (
            "0.7*math + 0.3*(code - chat) - toxic",
            "0.7*math + 0.3*(code - chat) - toxic",
            {"math": 0.7, "code": 0.3, "chat": -0.3, "toxic": -1.0},
        ),
        ("-a", "-a", {"a": -1.0}),
        ("--a", "a", {"a": 1.0}),
        ("2*0.35*math", "0.7*math", {"math": 0.7}),
        ("a*2*3/4", "2*a*3/4", {"a": 1.5}),
        ("-(a/3)", "-a/3", {"a": -1 / 3}),
        ("a - -2*b", "a + 2*b", {"a": 1.0, "b": 2.0}),
        ("a + -b + -0.5*c", "a - b - 0.5*c", {"a": 1.0, "b": -1.0, "c": -0.5}),
        ("a-(b-(c+d))", "a - (b - (c + d))", {"a": 1.0, "b": -1.0, "c": 1.0, "d": 1.0}),
        ("(2-1)*a", "a", {"a": 1.0}),
        ("(a + b) - b", "(a + b) - b", {"a": 1.0, "b": 0.0}),
        ("1e-3*layer.0.x_y", "0.001*layer.0.x_y", {"layer.0.x_y": 0.001}),
        ("`my model-v1`*.5 + `日本`", "0.5*`my model-v1` + `日本`", {"my model-v1": 0.5, "日本": 1.0}),
        ("\n a\t+\u2003b ", "a + b", {"a": 1.0, "b": 1.0}),
        ("2.*a", "2*a", {"a": 2.0}),
        ("e1 + 1E1*e1", "e1 + 10*e1", {"e1": 11.0}),
    ],
)
def test_an_expression_has_names_coefficients_and_one_canonical_form(text, canonical, expected):
    expression = parse(text)
    assert expression.coefficients() == expected
    assert expression.names() == list(expected)
    assert str(expression) == canonical
    assert str(parse(canonical)) == canonical


def test_an_expression_of_thousands_of_terms_or_factors_parses():
    names = [f"task_{i}" for i in range(5000)]
    assert parse(" + ".join(names)).names() == names
    assert parse("a" + "*2/2" * 5000).coefficients() == {"a": 1.0}
    assert parse("-" * 10001 + "a").coefficients() == {"a": -1.0}
    assert parse("+".join(["(a)"] * 100)).coefficients() == {"a": 100.0}
    assert parse("1" * 300 + "*a").names() == ["a"]


def test_an_expression_is_frozen_and_comparable():
    assert parse("a + b") == parse("a + b")
    with pytest.raises(AttributeError):
        parse("a").text = "b"  # type: ignore[misc]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty expression at column 1"),
        ("   ", "an empty expression at column 4"),
        ("a b", "expected an operator, found 'b', at column 3"),
        ("2a", "expected an operator, found 'a', at column 2"),
        ("a + ", "expected a name, a number or '\\(', found the end, at column 5"),
        ("a ** 2", "expected a name, a number or '\\(', found '\\*', at column 4"),
        ("+a", "expected a name, a number or '\\(', found '\\+', at column 1"),
        ("()", "expected a name, a number or '\\(', found '\\)', at column 2"),
        ("(a", "expected an operator or '\\)', found the end, at column 3"),
        ("a)", "a '\\)' without its '\\(' at column 2"),
        ("a * b", "two task vectors have no product at column 3"),
        ("a + 1", "a number and a task vector have no sum at column 3"),
        ("1 - a", "a number and a task vector have no sum at column 3"),
        ("1 / a", "a division by a task vector at column 3"),
        ("a / b", "a division by a task vector at column 3"),
        ("a / 0", "a division by zero at column 3"),
        ("a / (1 - 1)", "a division by zero at column 3"),
        ("2 / 0 * a", "a division by zero at column 3"),
        ("3", "the expression is a number, not a task vector, at column 1"),
        ("1e999*a", "a number beyond float64's range at column 1"),
        ("1e308*10*a", "a number beyond float64's range at column 6"),
        ("1/1e-320*a", "a number beyond float64's range at column 2"),
        ("b + 1e308*a + 1e308*a", "the coefficient of 'a' is beyond float64's range, at column 11"),
        ("1e308*a*10/100", "the coefficient of 'a' is beyond float64's range, at column 7"),
        ("a/1e-320", "the coefficient of 'a' is beyond float64's range, at column 1"),
        ("`a", "a backtick without its partner at column 1"),
        ("a + ``", "an empty name at column 5"),
        ("a − b", "unexpected character '−' at column 3"),
        ("日本", "unexpected character '日' at column 1"),
        ("a + b;", "unexpected character ';' at column 6"),
        ("a\x00", "unexpected character '\\\\x00' at column 2"),
        ("__import__(os)", "expected an operator, found '\\(', at column 11"),
    ],
)
def test_what_does_not_parse_is_refused_at_its_column(text, message):
    with pytest.raises(ExpressionError, match=message + r"\.\n"):
        parse(text)


def test_the_message_shows_the_expression_and_a_caret_below_the_column():
    with pytest.raises(ExpressionError) as refused:
        parse("0.7*math + (code - chat")
    assert str(refused.value) == (
        "expected an operator or ')', found the end, at column 24.\n"
        "    0.7*math + (code - chat\n"
        "                           ^\n"
        "Fix: close the '(' of column 12."
    )


def test_a_look_alike_minus_is_named_in_the_fix():
    with pytest.raises(ExpressionError, match="Fix: write '-'"):
        parse("a – b")


def test_the_caret_counts_the_cells_of_wide_and_combining_characters():
    with pytest.raises(ExpressionError) as refused:
        parse("`日本e\u0301` + )")
    _, shown, caret, *_ = str(refused.value).split("\n")
    assert shown == "    `日本e\u0301` + )"
    assert caret == " " * (4 + 1 + 4 + 1 + 1 + 3) + "^"


def test_a_long_expression_is_shown_around_the_column():
    with pytest.raises(ExpressionError) as refused:
        parse("a + " * 1000 + "* b")
    fact, shown, caret, *_ = str(refused.value).split("\n")
    assert "column 4001" in fact
    assert len(shown) < 110
    assert shown[caret.index("^")] == "*"


def test_control_characters_do_not_break_the_lines_of_the_message():
    with pytest.raises(ExpressionError) as refused:
        parse("a +\r\n\x1b[31m b")
    assert len(str(refused.value).split("\n")) == 4
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("depth", [64, 65, 5000, 100_000])
def test_parentheses_nest_to_a_stated_depth_and_never_exhaust_the_stack(depth):
    text = "(" * depth + "a" + ")" * depth
    if depth <= 64:
        assert parse(text).coefficients() == {"a": 1.0}
        return
    with pytest.raises(ExpressionError, match="parentheses deeper than 64 at column 65"):
        parse(text)


def test_the_deepest_tree_can_be_printed_and_evaluated():
    text = "b - 2*a"
    for _ in range(64):
        text = f"b - 2*({text})"
    assert str(parse(text)) == text
    assert evaluate(text, VECTORS).terms


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_the_nearest_and_shows_its_column():
    with pytest.raises(UnknownName, match=r"no task vector named 'mth' \(column 5\)[\s\S]*did you mean 'math'\?") as e:
        evaluate("2 * mth", {"math": VECTORS["a"], "code": VECTORS["b"]})
    assert str(e.value).split("\n")[1:3] == ["    2 * mth", "        ^"]


@pytest.mark.parametrize("error", [KeyError("x"), UnknownName("no.", "did you mean 'y'?")])
def test_a_lookup_by_function_reports_unknown_names_alike(error):
    def lookup(name):
        raise error

    with pytest.raises(UnknownName, match=r"no task vector named 'x' \(column 1\)"):
        evaluate("x", lookup)


def test_a_lookup_by_function_is_asked_once_a_name_in_order_of_first_use():
    asked = []
    result = evaluate("b + a - b/2", lambda name: asked.append(name) or VECTORS[name])
    assert asked == ["b", "a"]
    assert coefficients(result) == coefficients(VECTORS["b"] + VECTORS["a"] - VECTORS["b"] / 2)


def test_a_name_that_stands_for_a_checkpoint_is_refused():
    point = Checkpoint.from_tensors({"w": torch.zeros(2)})
    with pytest.raises(SpaceError, match=r"'m' is a Checkpoint, not a TaskVector \(column 1\)[\s\S]*Fix: subtract"):
        evaluate("m", {"m": point})


def test_the_value_of_an_expression_has_the_numbers_it_says():
    result = evaluate("0.5*a - (b - 2*c)/4", VECTORS)
    a, b, c = (VECTORS[n]["w"] for n in "abc")
    assert torch.equal(result["w"], 0.5 * a - (b - 2 * c) / 4)


def trees() -> st.SearchStrategy[str]:
    leaf = st.sampled_from(["a", "b", "c", "0.0", "1.0", "2.0", "3.0", "0.1", "7e-2", ".3", "5."])

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        binary = st.tuples(inner, st.sampled_from(["+", "-", " * ", "/"]), inner).map("".join)
        return binary | inner.map(lambda x: f"-{x}") | inner.map(lambda x: f"({x})")

    return st.recursive(leaf, grow, max_leaves=12)


@given(trees())
@example("a + -2.0*b/3.0*-1.0")
@example("-(a/3.0)*7e-2")
def test_an_expression_means_what_python_means(text):
    try:
        expected = eval(text, {}, dict(VECTORS))
    except (SpaceError, ParameterError, ZeroDivisionError):
        expected = None
    if not isinstance(expected, TaskVector):
        with pytest.raises(ExpressionError):
            parse(text)
        return
    assert coefficients(evaluate(text, VECTORS)) == coefficients(expected)


@given(trees())
def test_the_canonical_form_is_a_fixed_point_with_the_same_value(text):
    try:
        expression = parse(text)
    except ExpressionError:
        return
    again = parse(str(expression))
    assert str(again) == str(expression)
    assert again.coefficients() == expression.coefficients()
    assert again.names() == expression.names()
    assert coefficients(evaluate(again, VECTORS)) == coefficients(evaluate(expression, VECTORS))


PIECES = ["a", "b", "zz", "1", "0", ".", "e", "E9", "999", "+", "-", "*", "/", "(", ")", "`", " ", "\n", "−", "日", "_"]


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_whatever_is_typed_only_our_own_errors_come_out(text):
    try:
        expression = parse(text)
    except ExpressionError:
        return
    assert set(expression.coefficients()) == set(expression.names())
    assert str(parse(str(expression))) == str(expression)
    if set(expression.names()) <= set(VECTORS):
        assert isinstance(evaluate(expression, VECTORS), TaskVector)
        return
    with pytest.raises(UnknownName, match="column"):
        evaluate(expression, VECTORS)
