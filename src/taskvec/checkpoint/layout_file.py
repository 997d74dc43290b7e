"""The small YAML file that overrides a `Layout`; whatever it cannot mean is refused with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn, cast, final

from taskvec.checkpoint.roles import PRESETS, ROLES, Role, Split, default_role
from taskvec.checkpoint.source import TensorSpec
from taskvec.errors import ParameterError

_SPLIT = re.compile(r"(rows|columns) ([1-9][0-9]{0,3})")
_WHOLE = Split("rows", 1)


@final
@dataclass(frozen=True, slots=True)
class Override:
    """Patterns in the order of the file; the first that matches a name decides."""

    roles: Mapping[str, Role]
    splits: Mapping[str, Split]
    preset: str | None

    def role(self, name: str) -> Role | None:
        """The role that the file gives `name`."""
        return next((role for pattern, role in self.roles.items() if fnmatchcase(name, pattern)), None)

    def split(self, name: str) -> Split | None:
        """The split that the file gives `name`; one part means whole."""
        return next((split for pattern, split in self.splits.items() if fnmatchcase(name, pattern)), None)


@final
@dataclass(frozen=True, slots=True)
class _Entry:
    """One "key: value" of the file, with where it stands."""

    key: str
    value: Any
    line: int
    path: Path

    def refuse(self, what: str, known: Iterable[str] = ()) -> NoReturn:
        """Raise the error for this entry, suggesting the nearest of `known` to its offending word."""
        word, names = (what.split("'")[1] if "'" in what else self.key), list(known)
        near = difflib.get_close_matches(word, names, n=1)
        fix = f"did you mean '{near[0]}'?" if near else (f"known: {', '.join(names[:12])}." if names else None)
        raise ParameterError(f"'{self.path}', line {self.line}: {what}.", fix)


def read_override(path: Path, specs: Mapping[str, TensorSpec]) -> Override:
    """Read an override for the model with these specs.

    Raises:
        ParameterError: not such a file, an unknown key, role or split, or a pattern that fits no tensor.
    """
    roles: dict[str, Role] = {}
    splits: dict[str, Split] = {}
    preset: str | None = None
    for entry in _entries(path, _compose(path)):
        if entry.key == "roles":
            for rule in _table(entry):
                roles[rule.key] = _role(rule, specs)
        elif entry.key == "splits" and isinstance(entry.value, str):
            if entry.value not in ("none", *PRESETS):
                entry.refuse(f"no splits named '{entry.value}'", ["none", *PRESETS])
            preset = entry.value
        elif entry.key == "splits":
            for rule in _table(entry):
                splits[rule.key] = _split(rule, specs)
        else:
            entry.refuse(f"unknown key '{entry.key}'", ["roles", "splits"])
    return Override(roles, splits, preset)


def _compose(path: Path) -> Any:
    import yaml

    try:
        node = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"the layout '{path}' cannot be read: {error}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ParameterError(f"the layout '{path}' is not valid YAML: {' '.join(str(error).split())[:200]}.") from error
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise ParameterError(f"the layout '{path}' is not a table.", "write roles: and splits: at its top.")
    return node


def _entries(path: Path, node: Any) -> list[_Entry]:
    """The entries of a YAML table; scalars become text, tables stay nodes.

    Raises:
        ParameterError: a key that is not text, or that occurs twice.
    """
    import yaml

    entries: list[_Entry] = []
    for key, value in node.value if node is not None else ():
        line = key.start_mark.line + 1
        text = key.value if isinstance(key, yaml.ScalarNode) else ""
        entry = _Entry(text, value.value if isinstance(value, yaml.ScalarNode) else value, line, path)
        if not text or any(text == other.key for other in entries):
            entry.refuse("a key must be a name" if not text else f"the key '{text}' occurs twice")
        entries.append(entry)
    return entries


def _table(entry: _Entry) -> list[_Entry]:
    import yaml

    if not isinstance(entry.value, yaml.MappingNode):
        entry.refuse(f"'{entry.key}' is not a table from patterns to values")
    return _entries(entry.path, entry.value)


def _fitting(rule: _Entry, specs: Mapping[str, TensorSpec]) -> list[str]:
    names = [name for name in specs if fnmatchcase(name, rule.key)]
    if not names:
        rule.refuse(f"the pattern '{rule.key}' fits no tensor", specs)
    return names


def _role(rule: _Entry, specs: Mapping[str, TensorSpec]) -> Role:
    if rule.value not in ROLES:
        rule.refuse(f"no role named '{_text(rule)}'", ROLES)
    for name in _fitting(rule, specs):
        spec = specs[name]
        if (rule.value != "skip" and not spec.dtype.moves) or (
            rule.value == "matrix" and default_role(spec) != "matrix"
        ):
            rule.refuse(f"tensor '{name}' is {spec} and cannot have the role {rule.value}")
    return cast("Role", rule.value)


def _split(rule: _Entry, specs: Mapping[str, TensorSpec]) -> Split:
    match = _SPLIT.fullmatch(_text(rule))
    if match is None and rule.value != "none":
        rule.refuse(f"'{_text(rule)}' is not a split", ["rows 3", "columns 3", "none"])
    split = Split("rows" if match[1] == "rows" else "columns", int(match[2])) if match else _WHOLE
    for name in _fitting(rule, specs):
        if not split.divides(specs[name].shape):
            rule.refuse(f"tensor '{name}' is {specs[name]} and cannot be split into {split}")
    return split


def _text(rule: _Entry) -> str:
    return rule.value if isinstance(rule.value, str) else "a table"
