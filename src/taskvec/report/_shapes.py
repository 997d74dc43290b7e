"""What every figure is made of: colors, texts, numbers, and the frame of an inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

# Told apart also by people who see few colors (Okabe and Ito); the eighth is for whatever comes first again.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f7a00", "#777777")
CHAR = 6.8  # the width of a letter at 12 pixels
_READABLE = 480  # pixels: a figure shrinks no further, but scrolls


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A picture of that many pixels, which shrinks with the page as far as its texts can be read."""
    return (
        f'<svg role="img" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'style="min-width:{min(width, _READABLE):.0f}px"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def text(
    x: float, y: float, told: str, *, anchor: str = "start", turn: int = 0, light: bool = False, full: str = ""
) -> str:
    """A line of text; `full` is shown when the mouse rests on it, `light` is for dark grounds."""
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    fill = ' fill="#ffffff"' if light else ""
    hidden = f"<title>{escape(full)}</title>" if full not in ("", told) else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}{fill}>{hidden}{escape(told)}</text>'


def number(value: float) -> str:
    """Three digits that matter."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}"
    return f"{value:.2e}"


def percent(value: float) -> str:
    """A share in percent, as many digits as an axis or a cell needs."""
    return f"{round(100 * value, 2):g}%"


def nbytes(value: float) -> str:
    """Bytes for people, in powers of 1000."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    at = min(int(math.log10(max(value, 1.0)) / 3 + 1e-9), len(units) - 1)
    return f"{value / 1000**at:.3g} {units[at]}"


def short(label: str, length: int = 22) -> str:
    """A label that fits; the whole one is shown when the mouse rests on it."""
    return label if len(label) <= length else f"{label[: length - 1]}…"
