"""From text to the tree of an expression: tokens, then recursive descent.

    sum      := product (("+" | "-") product)*
    product  := unary (("*" | "/") unary)*
    unary    := "-"* atom
    atom     := NUMBER | NAME | "(" sum ")"
    NUMBER   := 2, 0.35, .5, 1e-3            NAME := [A-Za-z_][A-Za-z0-9_.]*, or any text in backticks

What has no name in it is a number and is folded on the way.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple, NoReturn, final

from taskvec._caret import under
from taskvec._expression_tree import PLAIN, Name, Node, Sign, Step, Sum, negated, scaled, signed, stepped
from taskvec.errors import ExpressionError

DEPTH = 64  # parentheses within each other

_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    rf"|(?P<name>{PLAIN.pattern})|`(?P<quoted>[^`]+)`|(?P<sign>[-+*/()])"
)
_LOOKALIKES = {"−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "÷": "/"}


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
        fail(text, at + 1, what, "write a name between two backticks.")
    instead = _LOOKALIKES.get(character)
    fix = f"write '{instead}'." if instead else "put names with other characters than A-Z a-z 0-9 _ . in backticks."
    fail(text, at + 1, f"unexpected character {character!r}", fix)


def fail(text: str, column: int, what: str, fix: str | None = None) -> NoReturn:
    """Refuse the text.

    Raises:
        ExpressionError: always; it says what and shows the column.
    """
    raise ExpressionError(f"{what} at column {column}.\n{under(text, column)}", fix)


@final
class Parser:
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
        fail(self._text, token.column, what, fix)

    def _number(self, value: float, token: _Token) -> _Number:
        if not math.isfinite(value):
            self._fail(token, "a number beyond float64's range", "use a smaller number.")
        return _Number(value)

    def _sum(self) -> Node | _Number:
        value = self._product()
        parts: list[tuple[Sign, Node]] = []
        while token := self._take("+-"):
            right = self._product()
            sign: Sign = 1 if token.text == "+" else -1
            if isinstance(value, _Number):
                if not isinstance(right, _Number):
                    self._no_sum(token)
                value = self._number(value.value + sign * right.value, token)
            elif isinstance(right, _Number):
                self._no_sum(token)
            else:
                parts.append(signed(sign, right))
        return value if isinstance(value, _Number) or not parts else Sum(((1, value), *parts))

    def _no_sum(self, token: _Token) -> NoReturn:
        self._fail(token, "a number and a task vector have no sum", "scale the vector by the number: use *.")

    def _product(self) -> Node | _Number:
        value = self._unary()
        steps: list[Step] = []
        while token := self._take("*/"):
            right = self._unary()
            if isinstance(value, _Number) and not isinstance(right, _Number) and token.text == "*":
                steps = [("*", value.value)]
                value = right
                continue
            steps.append(self._step(token, right))
            if isinstance(value, _Number):  # only the steps of a node are collected
                value = self._number(stepped(value.value, (steps.pop(),)), token)
        return value if isinstance(value, _Number) or not steps else scaled(value, steps)

    def _step(self, token: _Token, right: Node | _Number) -> Step:
        if token.text == "*":
            if isinstance(right, _Number):
                return "*", right.value
            self._fail(token, "two task vectors have no product", "scale a vector by a number.")
        if not isinstance(right, _Number):
            self._fail(token, "a division by a task vector", "divide a vector by a number.")
        if right.value == 0.0:
            self._fail(token, "a division by zero", "divide by another number.")
        return "/", right.value

    def _unary(self) -> Node | _Number:
        negative = False
        while self._take("-"):
            negative = not negative
        value = self._atom()
        if not negative:
            return value
        return _Number(-value.value) if isinstance(value, _Number) else negated(value)

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
