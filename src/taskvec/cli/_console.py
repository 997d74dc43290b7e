"""What is printed and how: tables on stdout, messages on stderr, JSON alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def say(head: str, text: str, *, style: str = "") -> None:
    """Print a message on stderr, `head` in a style; the terminal wraps it, so that paths can be copied whole."""
    from rich.text import Text

    _console(stderr=True).print(Text.assemble((head, style), text), soft_wrap=True)


def show(*parts: RenderableType) -> None:
    """Print tables and texts on stdout."""
    from rich.text import Text

    console = _console(stderr=False)
    with console.capture() as capture:  # rich would answer a closed pipe with an exit of its own
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str | Text))  # a path stays in one piece
    sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def show_json(table: Any) -> None:
    """Print plain JSON on stdout."""
    sys.stdout.write(json.dumps(table, indent=2, ensure_ascii=False) + "\n")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 tensor", "1,024 tensors"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(value: float, error: float | None = None) -> str:
    """A fraction in percent, with its standard error or spread where there is one: "83.1±0.4"."""
    return f"{100 * value:.1f}" + (f"±{100 * error:.1f}" if error is not None else "")


def size(nbytes: float) -> str:
    """Bytes for people, in powers of 1000 as disks and hubs count: "90.9 MB"."""
    return _scaled(nbytes, (" bytes", " kB", " MB", " GB", " TB"))


def magnitude(number: float) -> str:
    """A count for people: "22.7 M", "1.10 B"."""
    return _scaled(number, ("", " k", " M", " B", " T"))


def _scaled(number: float, units: Sequence[str]) -> str:
    """Three digits and a unit."""
    step = 0
    while number >= 999.5 and step < len(units) - 1:
        number, step = number / 1000, step + 1
    digits = 0 if step == 0 or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:,.{digits}f}{units[step]}"
