"""Task-vector expressions as text: `0.7*math + 0.3*(code - chat) - toxic`, parsed by hand and never executed.

Numbers, names (`[A-Za-z_][A-Za-z0-9_.]*`, or any text in backticks), `+ - * /`, a leading minus and parentheses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from taskvec._caret import under
from taskvec._expression_parser import Parser, fail
from taskvec._expression_tree import Name, Node, Scaled, coefficients_of, collect_names
from taskvec.errors import SpaceError, UnknownName
from taskvec.vector import TaskVector


@runtime_checkable
class Guarded(Protocol):
    """A lookup that knows which of its vectors must not be subtracted, such as a `Store`."""

    def check_negation(self, name: str, *, force: bool = False) -> None:
        """Raise where `name` must not be subtracted, unless forced."""


Lookup = Mapping[str, TaskVector] | Callable[[str], TaskVector]


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
        collect_names(self.tree, found)
        return found

    def coefficients(self) -> dict[str, float]:
        """Each name and the number that its vector is multiplied by in all (0 where it cancels)."""
        return coefficients_of(self.tree)


def parse(text: str) -> Expression:
    """The expression that `text` spells.

    Raises:
        ExpressionError: it does not parse, mixes up numbers and vectors, divides by zero, leaves the range of float64
            or nests parentheses deeper than 64; the message shows the column.
    """
    expression = Expression(text, Parser(text).whole())
    for name, coefficient in expression.coefficients().items():
        if not math.isfinite(coefficient):
            what = f"the coefficient of '{name}' is beyond float64's range,"
            fail(text, expression.columns()[name], what, "use smaller numbers.")
    return expression


def evaluate(expression: Expression | str, lookup: Lookup, *, force: bool = False) -> TaskVector:
    """The task vector that the expression describes, lazily; `lookup` gives the vector of a name.

    A store refuses to have a task subtracted that its basis gives back too badly; `force` insists.

    Raises:
        ExpressionError: a string that does not parse.
        UnknownName: a name that `lookup` does not have; the nearest is suggested.
        SpaceError: a name that stands for something else than a task vector.
        SchemaError: vectors of different models or bases.
        ParameterError: a vector in the negative that its store refuses, with its error.
    """
    if isinstance(expression, str):
        expression = parse(expression)
    vectors = {name: _look_up(name, column, expression.text, lookup) for name, column in expression.columns().items()}
    guard: object = lookup
    if isinstance(guard, Guarded):
        for name in (n for n, c in expression.coefficients().items() if c < 0.0):
            guard.check_negation(name, force=force)
    return _value(expression.tree, vectors)


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
