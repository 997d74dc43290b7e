"""Values of parameters in a recipe: one for all, one a task, one a tensor, or a gradient over the layers.

    0.2                                            a number, a word, true or false
    [0.7, 0.3]                                     one a task, in the order of the inputs
    {math: 0.7, code: 0.3}                         one a task, by name; each may itself depend on the tensor
    [{filter: "*mlp*", value: 0.3}, {value: 0.2}]  by tensor name: the first filter (a glob) that fits decides
    {gradient: [0.2, 0.5, 0.3], layers: "model.layers.{}.", outside: 0.2}
                                                   interpolated linearly over the layers; `outside` is for tensors of
                                                   no layer (default: the first number)

The names are those of the base's tensors.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, final

from taskvec.methods._parameters import PerTensor
from taskvec.recipes.document import Where, kind_of, nearest

Scalar = bool | int | float | str


@final
class Misfit(ValueError):
    """Something in a recipe that cannot be, and where; the recipe turns it into a ParameterError with the place."""

    def __init__(self, where: Where, what: str, fix: str | None = None, *, key: bool = False) -> None:
        self.where, self.what, self.fix, self.key = where, what, fix, key
        super().__init__(what)

    def under(self, *above: str | int) -> Misfit:
        """The same, seen from further up."""
        return Misfit((*above, *self.where), self.what, self.fix, key=self.key)


@final
@dataclass(frozen=True, slots=True)
class ByTask:
    """One value a task, by name."""

    values: Mapping[str, Value]


@final
@dataclass(frozen=True, slots=True)
class ByTensor:
    """The first glob that fits a tensor's name decides, else `default`."""

    rules: tuple[tuple[str, Value], ...]
    default: Value


@final
@dataclass(frozen=True, slots=True)
class Gradient:
    """Numbers interpolated linearly over the layer indices that stand for `{}` in `layers`."""

    numbers: tuple[float, ...]
    layers: str
    outside: Scalar | None = None

    def layer_of(self, name: str) -> int | None:
        """The layer that a tensor belongs to."""
        before, _, after = self.layers.partition("{}")
        found = re.match(f"{_regex(before)}([0-9]+){_regex(after)}", name)
        return int(found[1]) if found else None

    def at(self, name: str, first: int, last: int) -> Scalar:
        """The value for one tensor of a model with the layers `first` to `last`."""
        layer = self.layer_of(name)
        if layer is None:
            return self.numbers[0] if self.outside is None else self.outside
        position = (layer - first) / (last - first) if last > first else 1.0
        whole = int(position * (len(self.numbers) - 1))
        part = position * (len(self.numbers) - 1) - whole
        following = self.numbers[min(whole + 1, len(self.numbers) - 1)]
        return self.numbers[whole] if part == 0.0 else (1.0 - part) * self.numbers[whole] + part * following

    def glob(self, layer: int) -> str:
        """A glob for the tensors of one layer."""
        before, _, after = self.layers.partition("{}")
        return f"{_glob(before)}{layer}{_glob(after)}*"


Value = Scalar | tuple[Any, ...] | ByTask | ByTensor | Gradient


def _regex(text: str) -> str:
    return ".*".join(map(re.escape, text.split("*")))


def _glob(text: str) -> str:
    return "*".join(map(glob.escape, text.split("*")))


def parse(data: Any, tasks: Sequence[str], where: Where = ()) -> Value:
    """The value that plain data mean for these tasks.

    Raises:
        Misfit: they mean none; says where.
    """
    if isinstance(data, ByTask | ByTensor | Gradient):
        return parse(plain(data), tasks, where)
    if isinstance(data, Mapping):
        table = {"gradient", "layers"} & data.keys() and not data.keys() <= set(tasks)
        return _gradient(data, where) if table else _by_task(data, tasks, where)
    if isinstance(data, list | tuple):
        if any(isinstance(item, Mapping) for item in data):
            return _by_tensor(data, tasks, where)
        return _listed(data, tasks, where)
    return _scalar(data, where)


def parse_scale(data: Any, tasks: Sequence[str]) -> Value:
    """The value that plain data mean for the scale of the whole merge: a number, by tensor if need be.

    Raises:
        Misfit: they mean none; says where.
    """
    value = parse(data, (), ()) if isinstance(data, Mapping | list | ByTensor | Gradient) else data
    each = [value, *(v for _, v in _filters(value))] if isinstance(value, ByTensor) else [value]
    for found in each:
        if isinstance(found, tuple | ByTask):
            fix = "write coefficients: under parameters: for one number a task."
            raise Misfit((), "scale multiplies the merge of all tasks, and has no value for each", fix)
        number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
        if not (number or isinstance(found, ByTensor | Gradient)):
            said = found if isinstance(found, float) else kind_of(found)
            raise Misfit((), f"scale must be a finite number, and is {said}", "choose another.")
    return value


def _scalar(data: Any, where: Where) -> Scalar:
    if data is None:
        raise Misfit(where, "a parameter has no value", "write a number, or leave the parameter out.")
    if not isinstance(data, bool | int | float | str):
        raise Misfit(where, f"{kind_of(data)} is not a value", "write a number, a word, a list or a table.")
    if isinstance(data, float) and not math.isfinite(data):
        raise Misfit(where, f"{data} is not a finite number", "write a finite number.")
    return data


def _listed(data: Sequence[Any], tasks: Sequence[str], where: Where) -> tuple[Any, ...]:
    if len(data) != len(tasks):
        fix = "give one value for each input; a gradient is {gradient: […], layers: …}."
        raise Misfit(where, f"a list of {len(data)} values for {len(tasks)} inputs", fix)
    return tuple(_scalar(item, (*where, i)) for i, item in enumerate(data))


def _by_task(data: Mapping[Any, Any], tasks: Sequence[str], where: Where) -> ByTask:
    for name in data:
        if name not in tasks:
            raise Misfit((*where, str(name)), f"no input is named '{name}'", nearest(str(name), tasks), key=True)
    missing = [t for t in tasks if t not in data]
    if missing:
        raise Misfit(where, f"the input '{missing[0]}' has no value here", "give one value for each input.")
    values = {t: parse(data[t], tasks, (*where, t)) for t in tasks}
    for task, value in values.items():
        nested = [value, *(v for _, v in _filters(value))]
        if any(isinstance(v, tuple | ByTask) for v in nested):
            raise Misfit((*where, task), f"the value of '{task}' is again one a task", "give it one number.")
    return ByTask(MappingProxyType(values))


def _filters(value: Value) -> Iterator[tuple[str, Value]]:
    if isinstance(value, ByTensor):
        yield from (*value.rules, ("*", value.default))


def _by_tensor(data: Sequence[Any], tasks: Sequence[str], where: Where) -> ByTensor:
    rules: list[tuple[str, Value]] = []
    for i, item in enumerate(data):
        here = (*where, i)
        if not isinstance(item, Mapping):
            raise Misfit(here, f"{kind_of(item)} among filters", "write {filter: GLOB, value: …}.")
        _check_keys(item, ("filter", "value"), here)
        if "value" not in item:
            raise Misfit(here, "a filter has no value", "write {filter: GLOB, value: …}.")
        value = parse(item["value"], tasks, (*here, "value"))
        if isinstance(value, ByTensor):
            raise Misfit((*here, "value"), "filters inside filters", "write them as one list.")
        pattern = item.get("filter")
        if pattern is None:
            if i < len(data) - 1:
                raise Misfit(here, "a value without a filter fits every tensor, so it must be the last", "move it.")
            return ByTensor(tuple(rules), value)
        if not isinstance(pattern, str):
            raise Misfit((*here, "filter"), f"{kind_of(pattern)} is not a glob", 'write it like "*mlp*".')
        rules.append((pattern, value))
    raise Misfit(where, "no value for tensors that fit no filter", "end the list with {value: …}.")


def _gradient(data: Mapping[str, Any], where: Where) -> Gradient:
    _check_keys(data, ("gradient", "layers", "outside"), where)
    numbers = data.get("gradient")
    if not isinstance(numbers, list | tuple) or not numbers:
        raise Misfit((*where, "gradient"), "a gradient needs a list of numbers", "write gradient: [0.2, 0.5].")
    for i, number in enumerate(numbers):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise Misfit((*where, "gradient", i), f"{kind_of(number)} has no place in a gradient", "write numbers.")
    layers = data.get("layers")
    if not isinstance(layers, str) or layers.count("{}") != 1 or layers.endswith("{}"):
        fix = 'write the names up to and after the number of the layer: "model.layers.{}."'
        raise Misfit((*where, "layers"), "a gradient needs layers with one {} for their number", fix)
    outside = data.get("outside")
    return Gradient(tuple(numbers), layers, None if outside is None else _scalar(outside, (*where, "outside")))


def _check_keys(data: Mapping[Any, Any], known: Sequence[str], where: Where) -> None:
    for key in data:
        if key not in known:
            raise Misfit((*where, str(key)), f"unknown key '{key}'", nearest(str(key), known), key=True)


def plain(value: Value) -> Any:
    """The value as plain data, as a recipe writes it."""
    if isinstance(value, ByTask):
        return {task: plain(v) for task, v in value.values.items()}
    if isinstance(value, ByTensor):
        return [*({"filter": p, "value": plain(v)} for p, v in value.rules), {"value": plain(value.default)}]
    if isinstance(value, Gradient):
        outside = {} if value.outside is None else {"outside": value.outside}
        return {"gradient": list(value.numbers), "layers": value.layers, **outside}
    return list(value) if isinstance(value, tuple) else value


def expand(value: Value, names: Sequence[str], tasks: Sequence[str]) -> Any:
    """The value as methods take it for a model with these tensors: a scalar, a tuple, or a `PerTensor`.

    Raises:
        Misfit: a filter or a gradient fits no tensor.
    """
    if not isinstance(value, ByTask | ByTensor | Gradient):
        return value
    spans = _spans(value, names)
    table = {name: _at(value, name, spans, tasks) for name in names}
    if isinstance(value, ByTensor) and not any(isinstance(v, ByTask | Gradient) for _, v in _filters(value)):
        return PerTensor(value.rules, value.default)
    values = list(table.values()) or [_at(value, "", spans, tasks)]
    if all(v == values[0] for v in values):
        return values[0]
    layers = {(g, i) for g in spans for n in names if (i := g.layer_of(n)) is not None}
    return _rules(table, [g.glob(i) for g, i in sorted(layers, key=lambda x: (x[0].layers, x[1]))])


def _at(value: Value, name: str, spans: Mapping[Gradient, tuple[int, int]], tasks: Sequence[str]) -> Any:
    if isinstance(value, ByTensor):
        return _at(next(v for p, v in _filters(value) if fnmatchcase(name, p)), name, spans, tasks)
    if isinstance(value, ByTask):
        return tuple(_at(value.values[t], name, spans, tasks) for t in tasks)
    return value.at(name, *spans[value]) if isinstance(value, Gradient) else value


def _spans(value: Value, names: Sequence[str], where: Where = ()) -> dict[Gradient, tuple[int, int]]:
    """The first and last layer of each gradient in a value; refuses what fits no tensor."""
    if isinstance(value, Gradient):
        layers = [i for n in names if (i := value.layer_of(n)) is not None]
        if not layers:
            like = next((n for n in names if re.search(r"\.[0-9]+\.", n)), names[0] if names else "")
            fix = f"write it as the names are: '{like}'."
            raise Misfit((*where, "layers"), f"no tensor is named like '{value.layers}'", fix)
        return {value: (min(layers), max(layers))}
    spans: dict[Gradient, tuple[int, int]] = {}
    if isinstance(value, ByTask):
        for task, inner in value.values.items():
            spans |= _spans(inner, names, (*where, task))
    if isinstance(value, ByTensor):
        for i, (pattern, inner) in enumerate(_filters(value)):
            if i < len(value.rules) and not any(fnmatchcase(n, pattern) for n in names):
                raise Misfit((*where, i, "filter"), f"the filter '{pattern}' fits no tensor", nearest(pattern, names))
            spans |= _spans(inner, names, (*where, i, "value"))
    return spans


def _rules(table: Mapping[str, Any], globs: Sequence[str]) -> PerTensor:
    """A table by name as few rules: whole layers by their glob, single tensors by name, the commonest as default."""
    counts: dict[Any, int] = {}
    for found in table.values():
        counts[found] = counts.get(found, 0) + 1
    default = max(counts, key=lambda v: counts[v])
    rules: list[tuple[str, Any]] = []
    left = dict(table)
    for pattern in dict.fromkeys(globs):
        inside = [n for n in table if fnmatchcase(n, pattern)]
        if inside and len({table[n] for n in inside}) == 1 and all(n in left for n in inside):
            rules += [] if table[inside[0]] == default else [(pattern, table[inside[0]])]
            left = {n: v for n, v in left.items() if n not in inside}
    rules += [(glob.escape(n), v) for n, v in left.items() if v != default]
    return PerTensor(tuple(rules), default)
