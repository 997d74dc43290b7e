"""A caret under a column of a text, for messages."""

import unicodedata

_WIDTH = 100  # characters of a long text that are shown


def under(text: str, column: int) -> str:
    """Two lines: the text (the part around the column, if it is long) and a caret below `column` (from 1)."""
    start = max(0, min(column - 1 - _WIDTH // 2, len(text) - _WIDTH))
    stop = start + _WIDTH
    left, right = "…" if start else "", "…" if stop < len(text) else ""
    before = left + _printable(text[start : column - 1])
    return f"    {before}{_printable(text[column - 1 : stop])}{right}\n    {' ' * _cells(before)}^"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(bool(unicodedata.combining(c)) for c in text)
