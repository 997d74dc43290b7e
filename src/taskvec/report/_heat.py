"""Heat maps: colored cells with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import final

from taskvec.report._shapes import CHAR, number, short, svg, text

_CELL, _WIDTH = 46, 620  # pixels: a cell, and what more cells have to share
_NUMBERED = 32  # pixels: smaller cells tell their numbers to the mouse only
_STRAIGHT = 6  # letters that fit above a cell
_RED, _BLUE = "#b2182b", "#2166ac"


def brief(value: float) -> str:
    """What fits into a cell."""
    if value == 0 or 0.005 <= abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:.0f}" if 10 <= abs(value) < 1e5 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    title: str,
    limits: tuple[float, float] | None = None,
    told: Callable[[float], str] = brief,
    across: str = "",
    down: str = "",
) -> str:
    """Cells row by row, the deeper the larger their number, laid over the page; None is hatched by a dash.

    Colors start at the smallest value and are full at the largest, or at the two `limits`; where these have 0 between
    them, colors start at 0 and numbers below it are red. `across` and `down` say what columns and rows are.
    """
    frame = _frame(rows, columns, across=across, down=down)
    scale = _scale([v for row in values for v in row if v is not None], limits)
    parts = [*_labels(rows, columns, frame), *_names(rows, columns, frame, across, down)]
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            full = f"{rows[i]}, {columns[j]}: {'not known' if value is None else number(value)}"
            parts.append(_cell(frame, i, j, value, scale, told=told, full=full))
    width = frame.left + frame.cell * len(columns) + max(frame.lean, 6)
    return svg(width, frame.top + frame.cell * len(rows) + 6, title, parts)


@final
@dataclass(frozen=True, slots=True)
class _Frame:
    cell: float
    left: float
    top: float
    lean: float
    """How far the labels of columns reach to the right of the last cell; 0 where they stand straight."""


@final
@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    start: float
    high: float

    def share(self, value: float) -> float:
        """−1 to 1: how deep the color is."""
        span = self.high - self.start if value >= self.start else self.start - self.low
        return min(max((value - self.start) / span, -1.0), 1.0) if span > 0 else 0.0


def _frame(rows: Sequence[str], columns: Sequence[str], *, across: str, down: str) -> _Frame:
    cell = min(_CELL, _WIDTH / max(len(columns), 1))
    longest = max((len(short(c)) for c in columns), default=0)
    lean = 0.0 if longest <= _STRAIGHT and cell == _CELL else 0.77 * CHAR * longest  # labels lean by 40 degrees
    top = 18 + (0.65 * CHAR * longest if lean else 0.0) + (18 if across else 0)
    left = 12 + CHAR * max((len(short(r)) for r in rows), default=0) + (18 if down else 0)
    return _Frame(cell, left, top, lean)


def _scale(known: Sequence[float], limits: tuple[float, float] | None) -> _Scale:
    low, high = limits or (min(known, default=0.0), max(known, default=1.0))
    return _Scale(low, 0.0 if limits and low < 0 < high else low, high)


def _labels(rows: Sequence[str], columns: Sequence[str], frame: _Frame) -> list[str]:
    cell = frame.cell
    down = [
        text(frame.left - 6, frame.top + (i + 0.5) * cell + 4, short(row), anchor="end", full=row)
        for i, row in enumerate(rows)
    ]
    anchor, turn = ("start", -40) if frame.lean else ("middle", 0)
    across = [
        text(frame.left + (j + 0.5) * cell, frame.top - 6, short(column), anchor=anchor, turn=turn, full=column)
        for j, column in enumerate(columns)
    ]
    return down + across


def _names(rows: Sequence[str], columns: Sequence[str], frame: _Frame, across: str, down: str) -> list[str]:
    found = []
    if across:
        found.append(text(frame.left + frame.cell * len(columns) / 2, 12, across, anchor="middle"))
    if down:
        middle = frame.top + frame.cell * len(rows) / 2
        found.append(text(12, middle, down, anchor="middle", turn=-90))
    return found


def _cell(
    frame: _Frame, i: int, j: int, value: float | None, scale: _Scale, *, told: Callable[[float], str], full: str
) -> str:
    x, y, size = frame.left + j * frame.cell, frame.top + i * frame.cell, frame.cell
    share = 0.0 if value is None else scale.share(value)
    fill = f'fill="{_RED if share < 0 else _BLUE}" fill-opacity="{abs(share):.3f}"'
    box = f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{size - 1:.1f}" height="{size - 1:.1f}" {fill}>'
    box += f"<title>{escape(full)}</title></rect>"
    if size < _NUMBERED:
        return box
    shown = "–" if value is None else told(value)
    return box + text(x + size / 2, y + size / 2 + 4, shown, anchor="middle", light=abs(share) > 0.7)
