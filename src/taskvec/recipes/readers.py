"""Formats of recipes: a reader turns a YAML document into a `Recipe`; the first whose keys it shows reads it.

A second format registers itself with `register`; a file that none recognizes is read, and refused, as ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from taskvec.errors import ParameterError
from taskvec.recipes.document import Document

if TYPE_CHECKING:
    from taskvec.recipes.recipe import Recipe

OWN = "taskvec"  # the name of our own format, which recipe.py registers


@final
@dataclass(frozen=True, slots=True)
class Reader:
    """A format: its name, whether a document's top table is of it, and how it is read."""

    name: str
    recognizes: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Document], Recipe]


_readers: dict[str, Reader] = {}


def register(reader: Reader) -> None:
    """Add a format.

    Raises:
        ParameterError: its name is taken.
    """
    if reader.name in _readers:
        raise ParameterError(f"a recipe format named '{reader.name}' exists already.", "choose another name.")
    _readers[reader.name] = reader


def names() -> list[str]:
    """The names of all formats."""
    return list(_readers)


def read_document(document: Document) -> Recipe:
    """The recipe that a document holds.

    Raises:
        ParameterError: it says something that it cannot say; with line and column.
    """
    table = document.data if isinstance(document.data, Mapping) else {}
    reader = next((r for r in _readers.values() if r.recognizes(table)), _readers[OWN])
    return reader.read(document)
