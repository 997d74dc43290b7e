"""Line charts and points with names, on two axes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import final

from taskvec.report._axes import Axis
from taskvec.report._shapes import CHAR, COLORS, number, short, svg, text

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 640, 280, 64, 32, 44, 12
_LINE = 20  # pixels a line of the legend
_DASHES = ("", ' stroke-dasharray="6 3"', ' stroke-dasharray="2 3"')
Box = tuple[float, float, float, float]


@final
@dataclass(frozen=True, slots=True)
class Point:
    """A named point; `error` reaches up and down from it."""

    name: str
    x: float
    y: float
    error: float = 0.0


def line_chart(
    series: Mapping[str, Iterable[tuple[float, float]]],
    *,
    title: str,
    horizontal: Axis,
    vertical: Axis,
    dim: Collection[str] = (),
) -> str:
    """Lines through points (x, y), a legend where there is more than one; `dim` ones are gray and not in the legend."""
    bright = [name for name in series if name not in dim]
    parts = _axes(horizontal, vertical)
    for name, points in sorted(series.items(), key=lambda each: each[0] not in dim):
        color, dash = ("#999999", "") if name in dim else _look(bright.index(name))
        parts.append(_line(name, sorted(points), horizontal, vertical, color=color, dash=dash, dim=name in dim))
    legend = _legend(bright) if len(series) > 1 else []
    return svg(_WIDTH, _HEIGHT + _LINE * math.ceil(len(legend) / 2) + 6, title, parts + legend)


def scatter(points: Sequence[Point], *, title: str, horizontal: Axis, vertical: Axis) -> str:
    """Points with their names beside them, where these do not cover each other."""
    parts, taken = _axes(horizontal, vertical), [_around(_at(p, horizontal, vertical)) for p in points]
    for i, point in enumerate(points):
        x, y = _at(point, horizontal, vertical)
        color = COLORS[i % len(COLORS)]
        if point.error:
            ends = [_y(vertical, point.y + side * point.error) for side in (-1, 1)]
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" stroke="{color}"/>')
        parts.append(_dot(x, y, 4, color, f"{point.name}: {number(point.x)}, {number(point.y)}"))
        place, anchor, box = _free(x, y, short(point.name), [*taken[:i], *taken[i + 1 :]])
        taken.append(box)
        parts.append(text(*place, short(point.name), anchor=anchor, full=point.name))
    return svg(_WIDTH, _HEIGHT + 6, title, parts)


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.share(value) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - axis.share(value) * (_HEIGHT - _BOTTOM - _TOP)


def _at(point: Point, horizontal: Axis, vertical: Axis) -> tuple[float, float]:
    return _x(horizontal, point.x), _y(vertical, point.y)


def _axes(horizontal: Axis, vertical: Axis) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    lines = [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{_y(vertical, v):.1f}" y2="{_y(vertical, v):.1f}"/>'
        for v in vertical.ticks
    ]
    return [
        *lines,
        *(text(_LEFT - 8, _y(vertical, v) + 4, vertical.told(v), anchor="end") for v in vertical.ticks),
        *(text(_x(horizontal, v), bottom + 18, horizontal.told(v), anchor="middle") for v in horizontal.ticks),
        text((_LEFT + right) / 2, _HEIGHT - 6, horizontal.label, anchor="middle"),
        text(14, (bottom + _TOP) / 2, vertical.label, anchor="middle", turn=-90),
    ]


def _look(at: int) -> tuple[str, str]:
    return COLORS[at % len(COLORS)], _DASHES[at // len(COLORS) % len(_DASHES)]


def _line(
    name: str,
    points: Sequence[tuple[float, float]],
    horizontal: Axis,
    vertical: Axis,
    *,
    color: str,
    dash: str,
    dim: bool,
) -> str:
    places = [(_x(horizontal, x), _y(vertical, y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    line = f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{1 if dim else 2}"{dash}/>'
    told = (f"{name}, {horizontal.told(x)}: {number(y)}" for x, y in points)
    dots = (_dot(x, y, 2 if dim else 3, color, full) for (x, y), full in zip(places, told, strict=True))
    return line + "".join(dots)


def _dot(x: float, y: float, radius: int, color: str, full: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}"><title>{escape(full)}</title></circle>'


def _legend(names: Sequence[str]) -> list[str]:
    found = []
    for at, name in enumerate(names):
        color, dash = _look(at)
        x, y = _LEFT + (at % 2) * (_WIDTH - _LEFT) / 2, _HEIGHT + 14 + _LINE * (at // 2)
        line = f'<line x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}" stroke="{color}" stroke-width="3"{dash}/>'
        found.append(line + text(x + 28, y, short(name, 38), full=name))
    return found


def _around(place: tuple[float, float]) -> Box:
    x, y = place
    return x - 5, y - 5, x + 5, y + 5


def _free(x: float, y: float, name: str, taken: Sequence[Box]) -> tuple[tuple[float, float], str, Box]:
    """Where a name beside (x, y) covers nothing: the first such place, else to the right."""
    length, found = CHAR * len(name), []
    for lift in (0, -14, 14, -28, 28, -42, 42):
        for anchor, left in (("start", x + 9), ("end", x - 9 - length), ("middle", x - length / 2)):
            if anchor == "middle" and not lift:
                continue
            place = {"start": left, "end": left + length, "middle": x}[anchor], y + 4 + lift
            box = left, place[1] - 10, left + length, place[1] + 2
            found.append((place, anchor, box))
            inside = box[0] >= _LEFT and box[2] <= _WIDTH - 4 and box[1] >= 0 and box[3] <= _HEIGHT - _BOTTOM
            if inside and not any(_meet(box, other) for other in taken):
                return found[-1]
    return found[0]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
