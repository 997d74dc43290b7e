"""What every result has: plain data, as JSON, in a file."""

import abc
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from taskvec.errors import UnknownName


class Record(abc.ABC):
    """A result; `plain()` says what of it is written."""

    __slots__ = ()

    @abc.abstractmethod
    def plain(self) -> dict[str, Any]:
        """The result as dictionaries, lists, strings and numbers."""

    def to_json(self) -> str:
        """`plain()` as a JSON object."""
        return json.dumps(self.plain(), indent=2)

    def save(self, path: str | Path) -> None:
        """Writes `to_json()` to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")


class Named(Protocol):
    """A row that has a name."""

    @property
    def name(self) -> str:
        """What the row is about."""


Row = TypeVar("Row", bound=Named)


def row_named(rows: Iterable[Row], name: str) -> Row:
    """The row of that name.

    Raises:
        UnknownName: there is none; the nearest is suggested.
    """
    by_name = {row.name: row for row in rows}
    if name not in by_name:
        raise UnknownName.among(f"there is no row '{name}'.", name, by_name)
    return by_name[name]
