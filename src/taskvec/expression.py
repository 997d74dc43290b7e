"""Task-vector expressions as text: `0.7*math + 0.3*(code - chat) - toxic`, parsed by hand and never executed.

    sum      := product (("+" | "-") product)*
    product  := unary (("*" | "/") unary)*
    unary    := "-"* atom
    atom     := NUMBER | NAME | "(" sum ")"
    NUMBER   := 2, 0.35, .5, 1e-3            NAME := [A-Za-z_][A-Za-z0-9_.]*, or any text in backticks

What has no name in it is a number and is folded while parsing, so every node of the tree is a vector.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn, final

from taskvec._caret import under
from taskvec.errors import ExpressionError, SpaceError, UnknownName
from taskvec.vector import TaskVector

DEPTH = 64  # parentheses within each other
Lookup = Mapping[str, TaskVector] | Callable[[str], TaskVector]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    rf"|(?P<name>{_PLAIN.pattern})|`(?P<quoted>[^`]+)`|(?P<sign>[-+*/()])"
)
_LOOKALIKES = {"−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "÷": "/"}


@final
@dataclass(frozen=True, slots=True)
class Name:
    """A task vector by its name; `column` counts from 1."""

    name: str
    column: int

    def __str__(self) -> str:
        return self.name if _PLAIN.fullmatch(self.name) else f"`{self.name}`"


@final
@dataclass(frozen=True, slots=True)
class Scaled:
    """`of` multiplied and divided by numbers, in the order written; a leading minus is the number -1."""

    of: Name | Sum
    steps: tuple[tuple[Literal["*", "/"], float], ...]

    def __str__(self) -> str:
        (operator, first), rest = self.steps[0], self.steps[1:]
        inner = f"({self.of})" if isinstance(self.of, Sum) else str(self.of)
        if operator == "*":
            head = f"-{inner}" if first == -1.0 else f"{_text(first)}*{inner}"
        else:
            head, rest = inner, self.steps
        return head + "".join(f"{o}{_text(x)}" for o, x in rest)


@final
@dataclass(frozen=True, slots=True)
class Sum:
    """Parts that are added (+1) or subtracted (-1), from the left; the first one is added."""

    parts: tuple[tuple[Literal[1, -1], Node], ...]

    def __str__(self) -> str:
        def one(node: Node) -> str:
            return f"({node})" if isinstance(node, Sum) else str(node)

        first, *rest = self.parts
        return one(first[1]) + "".join(f" {'+' if sign > 0 else '-'} {one(node)}" for sign, node in rest)


Node = Name | Scaled | Sum


@final
@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: `text` as given and `tree`. As a string it is canonical: parsing that changes nothing."""

    text: str
    tree: Node

    def __str__(self) -> str:
        return str(self.tree)

    def names(self) -> list[str]:
        """The names in it, in order of first use."""
        return list(self.columns())

    def columns(self) -> dict[str, int]:
        """Each name and the column of its first use, counted from 1."""
        found: dict[str, int] = {}
        _collect(self.tree, found)
        return found

    def coefficients(self) -> dict[str, float]:
        """Each name and the number that its vector is multiplied by in all (0 where it cancels)."""
        return _coefficients(self.tree)


def parse(text: str) -> Expression:
    """The expression that `text` spells.

    Raises:
        ExpressionError: it does not parse, mixes up numbers and vectors, divides by zero, leaves the range of float64
            or nests parentheses deeper than 64; the message shows the column.
    """
    expression = Expression(text, _Parser(text).whole())
    for name, coefficient in expression.coefficients().items():
        if not math.isfinite(coefficient):
            what = f"the coefficient of '{name}' is beyond float64's range,"
            _fail(text, expression.columns()[name], what, "use smaller numbers.")
    return expression


def evaluate(expression: Expression | str, lookup: Lookup) -> TaskVector:
    """The task vector that the expression describes, lazily; `lookup` gives the vector of a name.

    Raises:
        ExpressionError: a string that does not parse.
        UnknownName: a name that `lookup` does not have; the nearest is suggested.
        SpaceError: a name that stands for something else than a task vector.
        SchemaError: vectors of different models or bases.
    """
    if isinstance(expression, str):
        expression = parse(expression)
    vectors = {name: _look_up(name, column, expression.text, lookup) for name, column in expression.columns().items()}
    return _value(expression.tree, vectors)


# --- walking the tree ----------------------------------------------------------------------------------------------
# Chains of operators are flat tuples, so recursion goes no deeper than the parentheses.


def _collect(node: Node, found: dict[str, int]) -> None:
    if isinstance(node, Name):
        found.setdefault(node.name, node.column)
    elif isinstance(node, Scaled):
        _collect(node.of, found)
    else:
        for _, part in node.parts:
            _collect(part, found)


def _coefficients(node: Node) -> dict[str, float]:
    """Once out of range always out of range: Inf may turn into NaN, but not into a number."""
    if isinstance(node, Name):
        return {node.name: 1.0}
    if isinstance(node, Scaled):
        return {name: _stepped(c, node.steps) for name, c in _coefficients(node.of).items()}
    total: dict[str, float] = {}
    for sign, part in node.parts:
        for name, c in _coefficients(part).items():
            total[name] = total.get(name, 0.0) + sign * c
    return total


def _stepped(value: float, steps: tuple[tuple[Literal["*", "/"], float], ...]) -> float:
    for operator, factor in steps:
        value = value * factor if operator == "*" else value / factor
        if not math.isfinite(value):
            return math.nan
    return value


def _value(node: Node, vectors: Mapping[str, TaskVector]) -> TaskVector:
    if isinstance(node, Name):
        return vectors[node.name]
    if isinstance(node, Scaled):
        value = _value(node.of, vectors)
        for operator, factor in node.steps:
            value = value * factor if operator == "*" else value / factor
        return value
    first, *rest = (_value(part, vectors) if sign > 0 else -_value(part, vectors) for sign, part in node.parts)
    return functools.reduce(TaskVector.__add__, rest, first)


def _look_up(name: str, column: int, text: str, lookup: Lookup) -> TaskVector:
    fact = f"no task vector named '{name}' (column {column}).\n{under(text, column)}"
    if isinstance(lookup, Mapping) and name not in lookup:
        raise UnknownName.among(fact, name, lookup)
    try:
        vector: object = lookup[name] if isinstance(lookup, Mapping) else lookup(name)
    except UnknownName as error:
        raise UnknownName(fact, error.fix) from error
    except KeyError as error:
        raise UnknownName(fact, "use a name that exists.") from error
    if not isinstance(vector, TaskVector):
        raise SpaceError(
            f"'{name}' is a {type(vector).__name__}, not a TaskVector (column {column}).\n{under(text, column)}",
            "subtract its base first.",
        )
    return vector


def _text(number: float) -> str:
    return repr(number).removesuffix(".0")


# --- parsing -------------------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    kind: str  # number, name, sign or end
    text: str
    column: int


class _Number(NamedTuple):
    value: float


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = _skip_spaces(text, 0)
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            _refuse_character(text, at)
        group = match.lastgroup or ""
        tokens.append(_Token("name" if group == "quoted" else group, match[group], at + 1))
        at = _skip_spaces(text, match.end())
    return [*tokens, _Token("end", "", at + 1)]


def _skip_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _refuse_character(text: str, at: int) -> NoReturn:
    character = text[at]
    if character == "`":
        what = "an empty name" if text[at + 1 : at + 2] == "`" else "a backtick without its partner"
        _fail(text, at + 1, what, "write a name between two backticks.")
    instead = _LOOKALIKES.get(character)
    fix = f"write '{instead}'." if instead else "put names with other characters than A-Z a-z 0-9 _ . in backticks."
    _fail(text, at + 1, f"unexpected character {character!r}", fix)


def _fail(text: str, column: int, what: str, fix: str | None = None) -> NoReturn:
    raise ExpressionError(f"{what} at column {column}.\n{under(text, column)}", fix)


@final
class _Parser:
    """Recursive descent over the tokens; a value is a number or a node."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        """The tree of the whole text, which has to be a vector."""
        if self._next.kind == "end":
            self._fail(self._next, "an empty expression", "write e.g. 0.5*math - toxic.")
        value = self._sum()
        if self._next.kind != "end":
            closing = self._next.text == ")"
            what = "a ')' without its '('" if closing else f"expected an operator, found {self._found()},"
            self._fail(self._next, what, None if closing else "write * between a number and a name.")
        if isinstance(value, _Number):
            self._fail(self._tokens[0], "the expression is a number, not a task vector,", "name a vector.")
        return value

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, signs: str) -> _Token | None:
        token = self._next
        if token.kind != "sign" or token.text not in signs:
            return None
        self._at += 1
        return token

    def _found(self) -> str:
        return "the end" if self._next.kind == "end" else f"'{self._next.text[:40]}'"

    def _fail(self, token: _Token, what: str, fix: str | None = None) -> NoReturn:
        _fail(self._text, token.column, what, fix)

    def _number(self, value: float, token: _Token) -> _Number:
        if not math.isfinite(value):
            self._fail(token, "a number beyond float64's range", "use a smaller number.")
        return _Number(value)

    def _sum(self) -> Node | _Number:
        value = self._product()
        parts: list[tuple[Literal[1, -1], Node]] = []
        while token := self._take("+-"):
            right = self._product()
            sign: Literal[1, -1] = 1 if token.text == "+" else -1
            if isinstance(value, _Number):
                if not isinstance(right, _Number):
                    self._no_sum(token)
                value = self._number(value.value + sign * right.value, token)
            elif isinstance(right, _Number):
                self._no_sum(token)
            else:
                parts.append(_signed(sign, right))
        return value if isinstance(value, _Number) or not parts else Sum(((1, value), *parts))

    def _no_sum(self, token: _Token) -> NoReturn:
        self._fail(token, "a number and a task vector have no sum", "scale the vector by the number: use *.")

    def _product(self) -> Node | _Number:
        value = self._unary()
        steps: list[tuple[Literal["*", "/"], float]] = []
        while token := self._take("*/"):
            right = self._unary()
            if token.text == "/":
                steps.append(("/", self._divisor(token, right)))
            elif isinstance(right, _Number):
                steps.append(("*", right.value))
            elif isinstance(value, _Number):
                value, steps = right, [("*", value.value)]
            else:
                self._fail(token, "two task vectors have no product", "scale a vector by a number.")
            if isinstance(value, _Number):
                value, steps = self._number(_stepped(value.value, tuple(steps)), token), []
        return value if isinstance(value, _Number) or not steps else _scaled(value, steps)

    def _divisor(self, token: _Token, right: Node | _Number) -> float:
        if not isinstance(right, _Number):
            self._fail(token, "a division by a task vector", "divide a vector by a number.")
        if right.value == 0.0:
            self._fail(token, "a division by zero", "divide by another number.")
        return right.value

    def _unary(self) -> Node | _Number:
        negative = False
        while self._take("-"):
            negative = not negative
        value = self._atom()
        if not negative:
            return value
        return _Number(-value.value) if isinstance(value, _Number) else _negated(value)

    def _atom(self) -> Node | _Number:
        token = self._next
        if token.kind == "number":
            self._at += 1
            return self._number(float(token.text), token)
        if token.kind == "name":
            self._at += 1
            return Name(token.text, token.column)
        if not self._take("("):
            self._fail(token, f"expected a name, a number or '(', found {self._found()},")
        self._depth += 1
        if self._depth > DEPTH:
            self._fail(token, f"parentheses deeper than {DEPTH}", "write the sum flat.")
        value = self._sum()
        if not self._take(")"):
            what = f"expected an operator or ')', found {self._found()},"
            self._fail(self._next, what, f"close the '(' of column {token.column}.")
        self._depth -= 1
        return value


def _scaled(node: Node, steps: list[tuple[Literal["*", "/"], float]]) -> Node:
    """`node` with more steps; a factor of 1 changes nothing and is left out."""
    before = list(node.steps) if isinstance(node, Scaled) else []
    every = tuple(step for step in (*before, *steps) if step[1] != 1.0)
    of = node.of if isinstance(node, Scaled) else node
    return Scaled(of, every) if every else of


def _negated(node: Node) -> Node:
    """The sign goes into the first factor, which is exact."""
    if isinstance(node, Scaled) and node.steps[0][0] == "*":
        rest = list(node.steps[1:])
        return _scaled(node.of, [("*", -node.steps[0][1]), *rest])
    steps = list(node.steps) if isinstance(node, Scaled) else []
    return _scaled(node.of if isinstance(node, Scaled) else node, [("*", -1.0), *steps])


def _signed(sign: Literal[1, -1], node: Node) -> tuple[Literal[1, -1], Node]:
    """Write a + -2*b as a - 2*b."""
    if isinstance(node, Scaled) and node.steps[0][0] == "*" and math.copysign(1.0, node.steps[0][1]) < 0:
        return (-1 if sign > 0 else 1), _negated(node)
    return sign, node
