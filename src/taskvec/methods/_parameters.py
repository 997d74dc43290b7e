"""Parameters of methods: their ranges are in the annotations, and checked before any file is opened."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, final, get_args, get_origin

from taskvec.errors import ParameterError, UnknownName


@final
@dataclass(frozen=True, slots=True)
class Range:
    """Allowed values: low < x <= high, or low <= x with `closed`."""

    low: float
    high: float = math.inf
    closed: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is allowed."""
        return (self.low <= value if self.closed else self.low < value) and value <= self.high

    def __str__(self) -> str:
        end = "∞)" if math.isinf(self.high) else f"{self.high:g}]"
        return f"{'[' if self.closed else '('}{self.low:g}, {end}"


@final
@dataclass(frozen=True, slots=True)
class PerTask:
    """Marks a parameter that may be one number, or one a task (a sequence, or a mapping by task name)."""


Fraction = Annotated[float, Range(0.0, 1.0)]
Share = Annotated[float, Range(0.0, 1.0, closed=True)]
NonNegative = Annotated[float, Range(0.0, closed=True)]
Seed = Annotated[int, Range(0, 2**63 - 1, closed=True)]
Coefficients = Annotated[float | tuple[float, ...], PerTask()]  # methods see a tuple, one number a task
Density = Annotated[float | tuple[float, ...], Range(0.0, 1.0), PerTask()]


def check_divisor(method: str, coefficients: Sequence[float]) -> None:
    """Refuse coefficients that are to be divided by their sum, and sum to 0 but for rounding.

    Raises:
        ParameterError: they do.
    """
    if abs(math.fsum(coefficients)) <= 2.0**-40 * math.fsum(abs(c) for c in coefficients):
        raise ParameterError(
            f"{method}: the coefficients {list(coefficients)} sum to 0, and are to be divided by their sum.",
            "give other coefficients.",
        )


def shares(coefficients: Any, normalize: bool) -> Any:
    """The coefficients as float64 (task,), divided by their sum if asked to."""
    import numpy as np

    given = np.array(coefficients, np.float64)
    return given / given.sum() if normalize else given


@final
@dataclass(frozen=True, slots=True)
class Parameter:
    """One keyword of a method: its kind, its range or choices, its default."""

    name: str
    kind: type
    default: Any
    range: Range | None
    choices: tuple[str, ...]
    per_task: bool

    @property
    def required(self) -> bool:
        """Whether the caller must give it."""
        return self.default is inspect.Parameter.empty

    def check(self, method: str, value: Any) -> Any:
        """The value as its kind.

        Raises:
            ParameterError: not of the kind, not among the choices, or out of the range.
        """
        where = f"{method}: {self.name}"
        if value is None and self.default is None:
            return None
        if self.choices:
            if value not in self.choices:
                raise ParameterError(f"{where}={value!r} is not one of {', '.join(self.choices)}.")
            return value
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ParameterError(f"{where}={value!r} is not true or false.")
            return value
        if self.kind is str:
            if not isinstance(value, str) or not value:
                raise ParameterError(f"{where}={value!r} is not a word.")
            return value
        try:
            number = self.kind(value)
            whole = not isinstance(value, bool | str) and (self.kind is float or number == value)
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole or not math.isfinite(number):
            raise ParameterError(f"{where}={value!r} is not a finite {'number' if self.kind is float else 'integer'}.")
        if self.range is not None and not self.range.holds(number):
            raise ParameterError(f"{where}={value!r} is outside {self.range}.")
        return number

    def resolve(self, method: str, value: Any, tasks: Sequence[str]) -> Any:
        """The checked value; for a per-task parameter a tuple with one number a task, in task order.

        Raises:
            ParameterError: see `check`; also a sequence of another length, or a mapping that names other tasks.
        """
        if isinstance(value, PerTensor):
            rules = tuple((pattern, self.resolve(method, v, tasks)) for pattern, v in value.rules)
            return PerTensor(rules, self.resolve(method, value.default, tasks))
        if not self.per_task:
            return self.check(method, value)
        if isinstance(value, Mapping):
            for name in value:
                if name not in tasks:
                    unknown = UnknownName.among(f"{method}: {self.name} names the task '{name}'.", str(name), tasks)
                    raise ParameterError(unknown.fact, unknown.fix)
            missing = [t for t in tasks if t not in value]
            if missing:
                raise ParameterError(f"{method}: {self.name} has no value for the task '{missing[0]}'.", "add it.")
            value = [value[t] for t in tasks]
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != len(tasks):
                raise ParameterError(f"{method}: {self.name} has {len(value)} values for {len(tasks)} tasks.")
            return tuple(self.check(method, v) for v in value)
        return (self.check(method, value),) * len(tasks)


INJECTED = ("state", "at", "base")  # keywords that the engine fills, not the user


@final
@dataclass(frozen=True, slots=True)
class PerTensor:
    """A value that depends on the tensor: the first pattern that matches its name decides, else `default`."""

    rules: tuple[tuple[str, Any], ...]
    default: Any

    def at(self, tensor: str) -> Any:
        """The value for one tensor."""
        return next((value for pattern, value in self.rules if fnmatchcase(tensor, pattern)), self.default)


@final
@dataclass(frozen=True, slots=True)
class Bound:
    """Checked parameters, per tensor where they were given so."""

    values: Mapping[str, Any]
    _found: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    def at(self, tensor: str) -> dict[str, Any]:
        """All parameters for one tensor; remembered, since every block asks."""
        found = self._found.get(tensor)
        if found is None:
            found = {k: v.at(tensor) if isinstance(v, PerTensor) else v for k, v in self.values.items()}
            self._found[tensor] = found
        return dict(found)

    def whole(self, method: str) -> dict[str, Any]:
        """All parameters, for a statistic of the whole model.

        Raises:
            ParameterError: one of them differs from tensor to tensor.
        """
        for key, value in self.values.items():
            if isinstance(value, PerTensor) and any(v != value.default for _, v in value.rules):
                raise ParameterError(
                    f"{method}: {key} differs from tensor to tensor, and its statistic is of the whole model.",
                    f"give one value of {key} for the model (or one a task).",
                )
        return self.at("")

    def only(self, names: Container[str]) -> dict[str, Any]:
        """The parameters among `names`, as they were given: for another method that has them, too."""
        return {key: value for key, value in self.values.items() if key in names}

    def to_plain(self) -> dict[str, Any]:
        """The parameters as plain data, for recipes."""
        return {k: plain(v) for k, v in self.values.items()}


def plain(value: Any) -> Any:
    """A value as plain data."""
    if isinstance(value, PerTensor):
        return [*({"filter": p, "value": plain(v)} for p, v in value.rules), {"value": plain(value.default)}]
    return list(value) if isinstance(value, tuple) else value


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only arguments of `function` as parameters."""
    found = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.name not in INJECTED:
            # Under `from __future__ import annotations` a hint is its own source text.
            hint = eval(p.annotation, function.__globals__) if isinstance(p.annotation, str) else p.annotation
            found[p.name] = _parameter(p, hint)
    return found


def _parameter(p: inspect.Parameter, hint: Any) -> Parameter:
    if get_origin(hint) in (Union, UnionType) and p.default is None:  # Fraction | None
        hint = next(h for h in get_args(hint) if h is not NoneType)
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    kind = get_args(hint)[0] if marks else hint
    kind = get_args(kind)[0] if get_origin(kind) is UnionType else kind
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    found = next((m for m in marks if isinstance(m, Range)), None)
    per_task = any(isinstance(m, PerTask) for m in marks)
    return Parameter(p.name, str if choices else kind, p.default, found, choices, per_task)
