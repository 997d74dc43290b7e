"""What `merge`, `plan` and `methods` print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskvec.cli import _tables as tables
from taskvec.cli._console import counted, magnitude, size

if TYPE_CHECKING:
    from taskvec.recipes import Plan, Recipe
    from taskvec.recipes.plan import PlannedTensor

_SHOWN = 6  # kinds of names that stand for a group of tensors


def merged_parts(table: Mapping[str, Any], recipe: Recipe) -> list[Any]:
    """What `merge` wrote."""
    return [
        tables.heading("wrote", table["path"]),
        tables.rows(
            [
                ("method", recipe.method),
                ("inputs", ", ".join(recipe.inputs)),
                ("parameters", settings(recipe.to_dict().get("parameters", {})) or None),
                ("scale", None if recipe.scale is None else _setting(recipe.to_dict()["scale"])),
                ("tensors", f"{table['tensors']:,}, {magnitude(table['parameters'])} parameters"),
                ("bytes", f"{size(table['bytes'])} in {counted(len(table['files']), 'file')}"),
                ("reported", _noted(table.get("notes", {}))),
            ]
        ),
    ]


def _noted(notes: Mapping[str, Mapping[str, float]]) -> str | None:
    """The largest of each number that a method reported, and of how many matrices: "dropped 12 (in 3 of 48)"."""
    largest: dict[str, list[float]] = {}
    for values in notes.values():
        for key, value in values.items():
            largest.setdefault(key, []).extend([value] if value else [])
    parts = [f"{key} {max(v):.4g} (in {len(v)} of {len(notes)})" for key, v in largest.items() if v]
    return ", ".join(parts) or None


def settings(values: Mapping[str, Any]) -> str:
    """Parameters on one line: "density math 0.2 code 0.3, aggregate mean"."""
    return ", ".join(f"{key} {_setting(value)}" for key, value in values.items())


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        if len(set(map(str, value.values()))) == 1:
            return _setting(next(iter(value.values())))
        return " ".join(f"{k} {_setting(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return "by tensor" if isinstance(value, list) and value and isinstance(value[0], Mapping) else str(value)


def plan_parts(plan: Plan) -> list[Any]:
    """The totals, then tensors with equal treatment in one line."""
    once = "once" if plan.passes == 1 else f"{plan.passes} times ({counted(plan.folds, 'fold')} and the merge)"
    hashed = f"; {size(plan.hashed)} once more for fingerprints" if plan.hashed else ""
    time = "not predicted" if plan.seconds is None else f"about {plan.seconds:.0f} s"
    return [
        tables.heading("plan", f"{plan.method} of {', '.join(plan.tasks)}"),
        tables.rows(
            [
                ("base", plan.recipe.get("base")),
                ("scale", None if "scale" not in plan.recipe else _setting(plan.recipe["scale"])),
                ("reads", f"{size(plan.bytes_in)}, {once}{hashed}"),
                ("writes", f"{size(plan.bytes_out)} in {counted(len(plan.tensors), 'tensor')}"),
                ("peak memory", f"about {size(plan.peak)} ({plan.assumptions['memory']})"),
                ("time", f"{time} ({plan.assumptions['time']})"),
                ("not checked", "\n".join(plan.unchecked) or None),
            ]
        ),
        "",
        _groups(plan),
    ]


def _groups(plan: Plan) -> Any:
    groups: dict[tuple[str, ...], list[PlannedTensor]] = {}
    for tensor in plan.tensors:
        groups.setdefault((tensor.method, _coefficients(tensor), settings(tensor.parameters)), []).append(tensor)
    lines = [
        (f"{len(found):,}", _kinds(t.name for t in found), f"{method}\n{coefficients or parameters}".strip())
        for (method, coefficients, parameters), found in groups.items()
    ]
    table = tables.columns(("tensors", "named", "method, with coefficients or parameters"), lines, left=3)
    table.columns[1].no_wrap = True
    return table


def _coefficients(tensor: PlannedTensor) -> str:
    return " ".join(f"{t} {c:.6g}" for t, c in (tensor.coefficients or {}).items())


def _kinds(names: Iterable[str]) -> str:
    """Names whose only difference is a number in one line: "model.layers.0-21.mlp.weight"."""
    kinds: dict[str, list[int]] = {}
    for name in names:
        found = re.search(r"(?<=\.)[0-9]+(?=\.)", name)
        kind = name if found is None else f"{name[: found.start()]}{{}}{name[found.end() :]}"
        kinds.setdefault(kind, []).append(-1 if found is None else int(found[0]))
    lines = [kind.replace("{}", _span(numbers), 1) for kind, numbers in kinds.items()]
    more = len(lines) - _SHOWN
    return "\n".join([*lines[:_SHOWN], *([f"and {more} more kinds"] if more > 0 else [])])


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    if high - low + 1 == len(numbers):
        return f"{low}-{high}"
    return ",".join(map(str, sorted(numbers)[:8])) + (",…" if len(numbers) > 8 else "")


def methods_parts(described: Sequence[Mapping[str, Any]]) -> list[Any]:
    """All methods, by what they merge."""
    from taskvec.methods._describe import SPACES

    parts: list[Any] = []
    for space, title in SPACES.items():
        lines = [(d["name"], d["summary"]) for d in described if d["space"] == space]
        if lines:
            parts += [tables.heading("methods", f"on {title}"), tables.rows(lines), ""]
    return [*parts, "`taskvec methods NAME` shows one: formula, source, parameters, laws, needs, cost."]


def method_parts(table: Mapping[str, Any]) -> list[Any]:
    """All that is declared about one method."""
    from taskvec.methods._describe import SPACES

    most = "" if table["most"] is None else f" to {table['most']}"
    inputs = counted(table["least"], "input") if table["most"] == table["least"] else f"{table['least']}{most} inputs"
    needs = f"{inputs if table['most'] is not None else inputs + ' or more'}; base {table['base']}"
    acts = "every entry by itself (a linear combination)" if table["linear"] else table["acts_on"]
    laws = "\n".join(f"{law}: {text}" for law, text in table["laws"].items())
    parameters = [(p["name"], _kind(p), _default(p), p["text"]) for p in table["parameters"]]
    shown = tables.columns(("parameter", "values", "default", ""), parameters, left=4)
    return [
        tables.heading(table["name"], table["summary"]),
        "",
        table["text"],
        "",
        tables.rows(
            [
                ("source", table["source"]),
                ("differs", table["differs"] or None),
                ("merges", SPACES[table["space"]]),
                ("needs", needs.replace("1 inputs or more", "1 input or more")),
                ("acts on", acts),
                ("otherwise", table["otherwise"] and f"{table['otherwise']}, for tensors that are not matrices"),
                ("laws", laws or "none"),
                ("cost", table["cost"]),
            ]
        ),
        *(["", shown] if parameters else []),
    ]


def _kind(parameter: Mapping[str, Any]) -> str:
    text = f"{parameter['kind']} in {parameter['range']}" if parameter["range"] else str(parameter["kind"])
    return text + (", or one a task" if parameter["per_task"] else "")


def _default(parameter: Mapping[str, Any]) -> str:
    if parameter["required"]:
        return "must be given"
    value = parameter["default"]
    return f"{value:g}" if isinstance(value, float) else str(value)
