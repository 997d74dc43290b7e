"""The tree of an expression, in which every node is a vector: names, multiples and sums.

Chains of operators are flat tuples, so recursion goes no deeper than the parentheses of the text.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, final

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")  # names that need no backticks
Step = tuple[Literal["*", "/"], float]
Sign = Literal[1, -1]


@final
@dataclass(frozen=True, slots=True)
class Name:
    """A task vector by its name; `column` counts from 1."""

    name: str
    column: int

    def __str__(self) -> str:
        return self.name if PLAIN.fullmatch(self.name) else f"`{self.name}`"


@final
@dataclass(frozen=True, slots=True)
class Scaled:
    """`of` multiplied and divided by numbers, in the order written; a leading minus is the number -1."""

    of: Name | Sum
    steps: tuple[Step, ...]

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

    parts: tuple[tuple[Sign, Node], ...]

    def __str__(self) -> str:
        def one(node: Node) -> str:
            return f"({node})" if isinstance(node, Sum) else str(node)

        first, *rest = self.parts
        return one(first[1]) + "".join(f" {'+' if sign > 0 else '-'} {one(node)}" for sign, node in rest)


Node = Name | Scaled | Sum


def collect_names(node: Node, found: dict[str, int]) -> None:
    """Put the column of the first use of each name into `found`."""
    if isinstance(node, Name):
        found.setdefault(node.name, node.column)
    elif isinstance(node, Scaled):
        collect_names(node.of, found)
    else:
        for _, part in node.parts:
            collect_names(part, found)


def coefficients_of(node: Node) -> dict[str, float]:
    """What each name is multiplied by in all; NaN where a step on the way leaves float64's range."""
    if isinstance(node, Name):
        return {node.name: 1.0}
    if isinstance(node, Scaled):
        return {name: stepped(c, node.steps) for name, c in coefficients_of(node.of).items()}
    total: dict[str, float] = {}
    for sign, part in node.parts:
        for name, c in coefficients_of(part).items():
            total[name] = total.get(name, 0.0) + sign * c
    return total


def stepped(value: float, steps: tuple[Step, ...]) -> float:
    """`value` after the steps; NaN as soon as one is not finite."""
    for operator, factor in steps:
        value = value * factor if operator == "*" else value / factor
        if not math.isfinite(value):
            return math.nan
    return value


def _text(number: float) -> str:
    return repr(number).removesuffix(".0")


def scaled(node: Node, steps: list[Step]) -> Node:
    """`node` with more steps; a factor of 1 changes nothing and is left out."""
    before = list(node.steps) if isinstance(node, Scaled) else []
    every = tuple(step for step in (*before, *steps) if step[1] != 1.0)
    of = node.of if isinstance(node, Scaled) else node
    return Scaled(of, every) if every else of


def negated(node: Node) -> Node:
    """The sign goes into the first factor, which is exact."""
    if isinstance(node, Scaled) and node.steps[0][0] == "*":
        rest = list(node.steps[1:])
        return scaled(node.of, [("*", -node.steps[0][1]), *rest])
    steps = list(node.steps) if isinstance(node, Scaled) else []
    return scaled(node.of if isinstance(node, Scaled) else node, [("*", -1.0), *steps])


def signed(sign: Sign, node: Node) -> tuple[Sign, Node]:
    """Write a + -2*b as a - 2*b."""
    if isinstance(node, Scaled) and node.steps[0][0] == "*" and math.copysign(1.0, node.steps[0][1]) < 0:
        return (-1 if sign > 0 else 1), negated(node)
    return sign, node
