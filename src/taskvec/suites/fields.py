"""Reading a table of a YAML document strictly: known keys, values of their kind, refusals with line and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, final

from taskvec.recipes.document import Document, Where, kind_of, nearest
from taskvec.recipes.recipe import refusal

Default = TypeVar("Default")
_MISSING: Any = object()


@final
class Fields:
    """One table of a document, whose keys must be among `known`; `what` names it in messages."""

    def __init__(self, document: Document, where: Where, known: Sequence[str], what: str) -> None:
        self._document, self._where, self._what = document, where, what
        data = document.data
        for step in where:
            data = data[step]
        if not isinstance(data, Mapping):
            raise self._refusal((), f"{what} must be a table, and is {kind_of(data)}", f"write {known[0]}: … lines.")
        self._data: Mapping[str, Any] = data
        for key in data:
            if key not in known:
                raise self._refusal((key,), f"unknown key '{key}' of {what}", nearest(key, known), key=True)

    def _refusal(self, where: Where, what: str, fix: str | None = None, *, key: bool = False) -> Exception:
        return refusal(self._document.marks, (*self._where, *where), what, fix, key=key)

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def value(self, key: str, wanted: str, default: Any = _MISSING) -> Any:
        """What stands at the key, or the default.

        Raises:
            ParameterError: it is missing and there is no default; says what is `wanted`.
        """
        if key not in self._data and default is _MISSING:
            raise self._refusal((), f"{self._what} has no {key}", f"give {key}: {wanted}.")
        return self._data.get(key, default)

    def word(self, key: str, wanted: str, default: Default = _MISSING) -> str | Default:
        """A text.

        Raises:
            ParameterError: something else.
        """
        found = self.value(key, wanted, default)
        if found is not default and (not isinstance(found, str) or not found.strip()):
            raise self.wrong(key, wanted)
        return found

    def choice(self, key: str, options: Sequence[str], default: str) -> str:
        """One of some words.

        Raises:
            ParameterError: something else; the nearest is suggested.
        """
        found = self.value(key, "", default)
        if found not in options:
            what = f"{key} is one of {', '.join(options)}, and is {kind_of(found)}"
            raise self._refusal((key,), what, nearest(str(found), options))
        return str(found)

    def number(self, key: str, wanted: str, default: float) -> float:
        """A finite number above 0.

        Raises:
            ParameterError: something else.
        """
        found = self.value(key, wanted, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < float("inf"):
            raise self.wrong(key, wanted)
        return float(found)

    def names(self, key: str, wanted: str) -> dict[str, str]:
        """A list of names, or a table NAME: PHRASE, as name → phrase ("" in a list); nothing where the key is missing.

        Raises:
            ParameterError: something else, or a name twice.
        """
        found = self.value(key, wanted, {})
        if not isinstance(found, list | Mapping):
            raise self.wrong(key, wanted)
        rows = list(found.items()) if isinstance(found, Mapping) else [(each, "") for each in found]
        for name, phrase in rows:
            if not isinstance(name, str | int) or isinstance(name, bool) or not isinstance(phrase, str):
                raise self.wrong(key, wanted)
        names = [str(name) for name, _ in rows]
        for name in names:
            if names.count(name) > 1:
                raise self._refusal((key,), f"{key} has '{name}' twice", "keep one.")
        return dict(zip(names, (phrase for _, phrase in rows), strict=True))

    def wrong(self, key: str, wanted: str) -> Exception:
        """The refusal of what stands at a key."""
        return self._refusal((key,), f"{key} of {self._what} must be {wanted}, and is {kind_of(self._data[key])}")

    def refusal(self, what: str, fix: str | None = None, *, key: str | None = None) -> Exception:
        """The refusal of the table, or of what stands at one of its keys."""
        return self._refusal(() if key is None else (key,), what, fix)
