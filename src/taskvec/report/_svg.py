"""Heat maps and line charts as inline SVG: text and shapes only, so that a page of them needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

# Told apart also by people who see few colors (Okabe and Ito); the eighth is for whatever comes first again.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f7a00", "#555555")
_CELL, _CHAR = 46, 7.2
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 680, 260, 64, 44, 12
_TICKS = 5


def heat_map(
    labels: Sequence[str], values: Sequence[Sequence[float | None]], *, title: str, limit: float | None = None
) -> str:
    """A square of colored cells with their numbers, row by row; None is gray.

    Colors go from white at the smallest value to blue at the largest; with `limit` from red at −limit to blue at limit.
    """
    shown = [short(label) for label in labels]
    margin = 12 + _CHAR * max(map(len, shown))
    size = len(labels)
    # The labels of columns lean to the right, by the cosine of 40 degrees.
    width, top = margin + _CELL * size + 0.77 * margin, 0.65 * margin + 12
    known = [v for row in values for v in row if v is not None]
    scale = _Scale(known, limit)
    parts = []
    for i, row in enumerate(values):
        y = top + i * _CELL
        parts.append(_text(margin - 6, y + _CELL / 2 + 4, shown[i], anchor="end", full=labels[i]))
        x = margin + (i + 0.5) * _CELL
        parts.append(_text(x, top - 6, shown[i], turn=-40, full=labels[i]))
        parts += [_cell(margin + j * _CELL, y, v, scale) for j, v in enumerate(row)]
    return _svg(width, top + _CELL * size + 6, title, parts)


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, horizontal: str, vertical: str
) -> str:
    """Lines through (x, y) points with whole numbers x; a legend where there is more than one."""
    xs = sorted({x for points in series.values() for x, _ in points})
    top = _nice(max((y for points in series.values() for _, y in points), default=1.0))
    legend = 20 * math.ceil(len(series) / 2) if len(series) > 1 else 0
    frame = _Frame(xs, top)
    parts = frame.axes(horizontal, vertical)
    for at, (name, points) in enumerate(series.items()):
        color = COLORS[at % len(COLORS)]
        dash = ' stroke-dasharray="6 3"' if at >= len(COLORS) else ""
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in sorted(points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        parts += [
            f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3" fill="{color}">'
            f"<title>{escape(name)}, {x:g}: {number(y)}</title></circle>"
            for x, y in points
        ]
        if legend:
            x, y = _LEFT + (at % 2) * (_WIDTH - _LEFT) / 2, _HEIGHT + 14 + 20 * (at // 2)
            parts.append(f'<line x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}" stroke="{color}" stroke-width="3"/>')
            parts.append(_text(x + 28, y, short(name, 44), full=name))
    return _svg(_WIDTH, _HEIGHT + legend + 6, title, parts)


def number(value: float) -> str:
    """Three digits that matter."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}"
    return f"{value:.2e}"


def short(label: str, length: int = 22) -> str:
    """A label that fits; the whole one is shown when the mouse rests on it."""
    return label if len(label) <= length else f"{label[: length - 1]}…"


class _Scale:
    def __init__(self, known: Sequence[float], limit: float | None) -> None:
        self.low = 0.0 if limit is not None else min(known, default=0.0)
        self.high = limit if limit is not None else max(known, default=1.0)

    def share(self, value: float) -> float:
        """−1 to 1: how deep the color is."""
        span = self.high - self.low
        return (value - self.low) / span if span > 0 else 0.0

    def color(self, value: float) -> str:
        share = self.share(value)
        deep = (178, 24, 43) if share < 0 else (33, 102, 172)
        return "#" + "".join(f"{round(255 + (c - 255) * min(abs(share), 1.0)):02x}" for c in deep)


def _cell(x: float, y: float, value: float | None, scale: _Scale) -> str:
    fill = "#eeeeee" if value is None else scale.color(value)
    ink = "#ffffff" if value is not None and abs(scale.share(value)) > 0.55 else "#222222"
    told = "–" if value is None else _brief(value)
    rectangle = f'<rect x="{x:.1f}" y="{y:.1f}" width="{_CELL - 1}" height="{_CELL - 1}" fill="{fill}"/>'
    return rectangle + _text(x + _CELL / 2, y + _CELL / 2 + 4, told, anchor="middle", ink=ink)


def _brief(value: float) -> str:
    """What fits into a cell."""
    if value == 0 or 0.005 <= abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:.0f}" if 10 <= abs(value) < 1e5 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


class _Frame:
    """Where numbers lie in a chart."""

    def __init__(self, xs: Sequence[float], top: float) -> None:
        self._xs, self._top = xs or [0.0], top
        self._span = max(self._xs[-1] - self._xs[0], 1.0)

    def x(self, value: float) -> float:
        return _LEFT + 12 + (value - self._xs[0]) / self._span * (_WIDTH - _LEFT - 36)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self._top * (_HEIGHT - _BOTTOM - _TOP)

    def _grid(self, value: float, right: float) -> str:
        at = f"{self.y(value):.1f}"
        return f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}"/>'

    def axes(self, horizontal: str, vertical: str) -> list[str]:
        levels = [self._top * i / _TICKS for i in range(_TICKS + 1)]
        step = math.ceil(len(self._xs) / 16)
        right = _WIDTH - 12
        return [
            *(self._grid(v, right) for v in levels),
            *(_text(_LEFT - 8, self.y(v) + 4, number(v), anchor="end") for v in levels),
            *(_text(self.x(v), _HEIGHT - _BOTTOM + 18, f"{v:g}", anchor="middle") for v in self._xs[::step]),
            _text((_LEFT + right) / 2, _HEIGHT - 6, horizontal, anchor="middle"),
            _text(14, (_HEIGHT - _BOTTOM + _TOP) / 2, vertical, anchor="middle", turn=-90),
        ]


def _nice(value: float) -> float:
    """The end of an axis that reaches `value`: five round steps."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    step = value / _TICKS
    power = 10.0 ** math.floor(math.log10(step))
    return _TICKS * power * next(f for f in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if f * power >= step * (1 - 1e-9))


def _text(x: float, y: float, text: str, *, anchor: str = "start", turn: int = 0, ink: str = "", full: str = "") -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    fill = f' fill="{ink}"' if ink else ""
    told = f"<title>{escape(full)}</title>" if full not in ("", text) else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}{fill}>{told}{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
