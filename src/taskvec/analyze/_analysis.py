"""`analysis`: a pure function on the deltas of one tensor becomes a registered analysis.

    on        "entries": the function maps a block (task, n) of float64 to a statistic with `+`, and the runner adds
              the statistics of a tensor in the order of its blocks; one pass serves all such analyses.
              "matrix": the function maps `Deltas`, all tasks' deltas of one matrix, to whatever `finish` understands
    finish    maps {tensor: what was found} and the tasks' names to tables
    tables    what the numbers of each table mean, in a sentence; the report prints it
    least     how many task vectors it takes
    source    where the definition comes from

The keyword-only arguments of the function are its parameters.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from taskvec.errors import ParameterError, UnknownName
from taskvec.methods._parameters import Parameter, parameters_of

On = Literal["entries", "matrix"]
Row = dict[str, Any]
Tables = Mapping[str, Sequence[Row]]
Finish = Callable[[Mapping[str, Any], Sequence[str]], Tables]


@final
@dataclass(frozen=True, eq=False, slots=True)
class AnalysisMethod:
    """A registered analysis; see the module's docstring for the fields."""

    function: Callable[..., Any]
    name: str
    on: On
    source: str
    least: int
    finish: Finish
    tables: Mapping[str, str]
    parameters: Mapping[str, Parameter]

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its parameters among the given ones, checked, defaults filled in.

        Raises:
            ParameterError: a value out of its range.
        """
        return {
            key: parameter.check(self.name, given[key]) if key in given else parameter.default
            for key, parameter in self.parameters.items()
        }


_analyses: dict[str, AnalysisMethod] = {}


def joined(found: Mapping[str, Tables], _tasks: Sequence[str]) -> Tables:
    """The rows of every tensor, one after the other: the `finish` of functions that return tables."""
    tables: dict[str, list[Row]] = {}
    for each in found.values():
        for table, rows in each.items():
            tables.setdefault(table, []).extend(rows)
    return tables


def analysis(
    *, on: On, source: str, tables: Mapping[str, str], least: int = 1, finish: Finish = joined
) -> Callable[[Callable[..., Any]], AnalysisMethod]:
    """Register the decorated function; see the module's docstring.

    Raises:
        ParameterError: a name that is taken.
    """

    def register(function: Callable[..., Any]) -> AnalysisMethod:
        name = function.__name__
        if name in _analyses:
            raise ParameterError(f"an analysis named '{name}' exists already.", "give it another name.")
        _analyses[name] = AnalysisMethod(
            function=function, name=name, on=on, source=source, least=least, finish=finish, tables=tables,
            parameters=parameters_of(function),
        )  # fmt: skip
        return _analyses[name]

    return register


def pairs(tasks: Sequence[str]) -> Iterable[tuple[int, int]]:
    """The indices of every two tasks, the first before the second."""
    return ((i, j) for i in range(len(tasks)) for j in range(i + 1, len(tasks)))


def names() -> list[str]:
    """The names of all analyses: one a public file of this package."""
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if not module.startswith("_"):
            importlib.import_module(f"taskvec.analyze.{module}")
    return sorted(_analyses)


def get(name: str) -> AnalysisMethod:
    """The analysis registered under `name`.

    Raises:
        UnknownName: no such analysis; the nearest is suggested.
    """
    if name not in names():
        raise UnknownName.among(f"no analysis named '{name}'.", name, names())
    return _analyses[name]


def summary_of(method: AnalysisMethod) -> str:
    """The first line of the docstring."""
    return (inspect.getdoc(method.function) or "").partition("\n")[0]
