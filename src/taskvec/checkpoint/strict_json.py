"""JSON from strangers: no name twice, no text that is not Unicode, no nesting that exhausts the stack."""

from __future__ import annotations

import json
from typing import Any


def parse(text: bytes) -> Any:
    """The value of a UTF-8 JSON text.

    Raises:
        ValueError: not JSON, a name that occurs twice in one table, or text that is not valid Unicode.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        if b"\\u" in text:  # half of a surrogate pair can only come from an escape
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(n for n, _ in pairs if n in seen or seen.add(n))  # type: ignore[func-returns-value]
        raise ValueError(f"it names '{twice}' twice")
    return table


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")
