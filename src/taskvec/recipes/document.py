"""A YAML text as plain data that remembers where everything stands; strict where YAML itself is lenient.

Scalars mean what they mean in JSON, plus words: a number in decimal, `true`, `false`, `null`, else text. So `yes`,
`1:30`, `0x10`, `2024-01-01` are words, and `1e-3` is a number. Duplicate keys, tags and merge keys are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from taskvec.errors import ParameterError

Where = tuple[str | int, ...]  # keys and positions from the root: ("parameters", "density", 0)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "~": None, "": None}
_MOST = 100_000  # nodes, counting each use of an anchor
_LARGEST = 10_000_000  # bytes of a file
_STANDARD = "tag:yaml.org,2002:"
_TEXT = f"{_STANDARD}str"
_TAGS = ("str", "seq", "map", "int", "float", "bool", "null", "timestamp", "value", "merge")


@final
@dataclass(frozen=True, slots=True)
class Marks:
    """Where a document's parts stand: line and column of every value and of every key, counted from 1."""

    label: str
    values: Mapping[Where, tuple[int, int]]
    keys: Mapping[Where, tuple[int, int]]
    foreign: frozenset[Where] = frozenset()  # what did not come from this text

    def without(self, *wheres: Where) -> Marks:
        """The same marks for a document of which these parts were replaced."""
        return replace(self, foreign=self.foreign | set(wheres))

    def at(self, where: Where, *, key: bool = False) -> str:
        """The words "'recipe.yml', line 3, column 5: " of the value or key at `where`, or of what is around it."""
        if any(where[:n] in self.foreign for n in range(1, len(where) + 1)):
            return ""
        while where and where not in self.values:
            where = where[:-1]
        line, column = (self.keys if key and where in self.keys else self.values).get(where, (1, 1))
        return f"{self.label}, line {line}, column {column}: "


@final
@dataclass(frozen=True, slots=True)
class Document:
    """What a text says, where each part stands, and the folder that its relative paths start from."""

    data: Any
    marks: Marks
    folder: Path | None

    @classmethod
    def read(cls, path: str | Path, *, what: str = "recipe") -> Document:
        """Read a file; `what` it is names it in messages.

        Raises:
            ParameterError: it cannot be read, is not YAML, or says something twice.
        """
        file = Path(path)
        try:
            if file.stat().st_size > _LARGEST:
                raise ParameterError(f"the {what} '{file}' has more than {_LARGEST:,} bytes.", "check the path.")
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, ParameterError):
                raise
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            merge = file.is_dir() and what == "recipe"
            fix = "to merge models without a recipe, say how: --method NAME." if merge else "check the path."
            raise ParameterError(f"the {what} '{file}' cannot be read: {cause}.", fix) from error
        return cls.parse(text, f"'{file}'", file.absolute().parent)

    @classmethod
    def parse(cls, text: str, label: str, folder: Path | None = None) -> Document:
        """Parse a text that messages call `label`.

        Raises:
            ParameterError: not YAML, or something that is refused; with line and column.
        """
        reader = _Reader(label)
        return cls(reader.read(text), Marks(label, reader.values, reader.keys), folder)


@final
class _Reader:
    def __init__(self, label: str) -> None:
        self.label = label
        self.values: dict[Where, tuple[int, int]] = {}
        self.keys: dict[Where, tuple[int, int]] = {}
        self._count = 0

    def read(self, text: str) -> Any:
        import yaml

        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            return None if node is None else self._value(node, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            problem = error.problem or "not valid YAML"
            raise ParameterError(f"{self.label}{place}: {problem}.", _repair(problem)) from error
        except yaml.YAMLError as error:
            raise ParameterError(f"{self.label}: {' '.join(str(error).split())[:200]}.", "write plain text.") from error
        except RecursionError as error:
            raise ParameterError(f"{self.label} is nested too deeply.", "a few levels are enough.") from error

    def _value(self, node: Any, where: Where) -> Any:
        import yaml

        self._count += 1
        if self._count > _MOST:
            raise ParameterError(f"{self.label} has more than {_MOST:,} values.", "anchors repeat too much.")
        self.values[where] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, where)
        self._check_tag(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*where, i)) for i, item in enumerate(node.value)]
        return self._table(node, where)

    def _table(self, node: Any, where: Where) -> dict[str, Any]:
        import yaml

        table: dict[str, Any] = {}
        for key, value in node.value:
            mark = (key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                raise self._refusal(mark, "a key must be a name")
            if key.value in table:
                line = self.keys[(*where, key.value)][0]
                raise self._refusal(mark, f"the key '{key.value}' occurs twice (first in line {line})", "keep one.")
            table[key.value] = self._value(value, (*where, key.value))
            self.keys[(*where, key.value)] = mark
        return table

    def _scalar(self, node: Any, where: Where) -> Any:
        self._check_tag(node, where)
        return scalar_of(node.value) if node.style is None else node.value

    def _check_tag(self, node: Any, where: Where) -> None:
        if node.tag.removeprefix(_STANDARD) not in _TAGS:
            raise self._refusal(self.values[where], f"the tag '{node.tag}' means nothing here", "leave it out.")

    def _refusal(self, mark: tuple[int, int], what: str, fix: str | None = None) -> ParameterError:
        return ParameterError(f"{self.label}, line {mark[0]}, column {mark[1]}: {what}.", fix)


def scalar_of(text: str) -> Any:
    """What a plain scalar means: an integer, a number, true, false, null, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) < 400 else text
    return float(text) if _NUMBER.fullmatch(text) and not _padded(text) else text


def _padded(text: str) -> bool:
    """Whether a number starts with an idle zero ("007"), as names do."""
    digits = text.lstrip("+-")
    return digits[:1] == "0" and digits[1:2].isdigit()


def to_text(data: Mapping[str, Any]) -> str:
    """Plain data as YAML that `Document.parse` reads back as the same data."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def word(dumper: Any, text: str) -> Any:
        style = None if isinstance(scalar_of(text), str) else "'"
        return dumper.represent_scalar(_TEXT, text, style=style if text.isprintable() else '"')

    def flat(dumper: Any, items: list[Any]) -> Any:
        inline = all(not isinstance(i, dict | list) for i in items)
        return dumper.represent_sequence(f"{_STANDARD}seq", items, flow_style=inline)

    Dumper.add_representer(str, word)
    Dumper.add_representer(list, flat)
    text: str = yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10**9)
    return text


def kind_of(value: Any) -> str:
    """What a value is, for messages."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value!r}"
    if isinstance(value, str):
        return f"the word '{value[:60]}'"
    return "a list" if isinstance(value, list | tuple) else "a table" if isinstance(value, Mapping) else repr(value)


def nearest(word: str, known: Iterable[str]) -> str:
    """The fix for a word that is not known: the nearest one that is, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(names[:16])}{', …' if len(names) > 16 else ''}." if names else "there are none."


def _repair(problem: str) -> str:
    """What to do about what a YAML parser says."""
    if "\\t" in problem:
        return "indent with spaces, not with tabs."
    return "close the bracket or quote that is open." if "stream end" in problem else "correct it there."
