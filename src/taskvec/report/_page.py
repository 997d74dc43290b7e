"""One HTML page that holds all it needs: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, final

from taskvec.report._shapes import number

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --dim: #666; --rule: #ddd; --page: #fff; --head: #f4f5f7;
  --best: #d9ecdf; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --dim: #a0a0a0; --rule: #444; --page: #1b1c1e; --head: #26282b; --best: #234432; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--rule); padding-bottom: .2rem; }
p.about, dt, summary, figcaption { color: var(--dim); }
p.about { max-width: 50rem; }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; overflow-x: auto; }
figcaption { position: sticky; left: 0; font-size: .87rem; }
figure svg { display: block; max-width: 100%; height: auto; }
.figures { display: flex; flex-wrap: wrap; gap: 0 2rem; }
.figures figure { flex: 1 1 30rem; min-width: 0; max-width: 44rem; }
svg text { font: 12px system-ui, sans-serif; }
svg text:not([fill]) { fill: var(--ink); }
svg .grid { stroke: var(--rule); }
svg .cell { stroke: var(--rule); stroke-width: .5; }
.table { overflow: auto; max-height: 32rem; border: 1px solid var(--rule); width: fit-content; max-width: 100%; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: .87rem; }
th { position: sticky; top: 0; background: var(--head); text-align: left; z-index: 1; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--page); }
th:first-child { z-index: 2; background: var(--head); }
td.number, th.number { text-align: right; }
td.best, td.near { background: var(--best); }
td.best { font-weight: 700; }
tr.apart td { border-bottom-width: 2px; }
td small { color: var(--dim); font-weight: 400; }
summary { cursor: pointer; margin: .6rem 0; }
"""

Mark = Literal["best", "near"]


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """A number as it is shown, e.g. with what it is uncertain by, and whether it is the best or not far from it."""

    told: str
    error: str = ""
    mark: Mark | None = None


def page(title: str, parts: Sequence[str]) -> str:
    """The document."""
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, about: str, *parts: str) -> str:
    """A heading, a sentence on what the numbers mean, and what there is to see."""
    return f'<section><h2>{escape(title)}</h2>\n<p class="about">{_code(about)}</p>\n' + "\n".join(parts) + "</section>"


def figure(svg: str, caption: str) -> str:
    """A chart with the text below it."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def facts(pairs: Mapping[str, str]) -> str:
    """Labels and values."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items()) + "</dl>"


def figures(*drawn: str) -> str:
    """Small figures, side by side where there is room."""
    return '<div class="figures">' + "".join(drawn) + "</div>"


def table(rows: Sequence[Mapping[str, Any]], *, folded: bool = False, apart: int = 0) -> str:
    """A table of rows with the same columns, as they come; `folded` behind a line that says how long it is.

    A thick line follows the first `apart` rows: those that the others are compared with.
    """
    if not rows:
        return '<p class="about">Nothing to show.</p>'
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {c for c in columns if all(isinstance(row.get(c), int | float | Cell | None) for row in rows)}
    head = "".join(f"<th{_class('number' if c in numeric else '')}>{escape(c)}</th>" for c in columns)
    body = "\n".join(
        f"<tr{_class('apart' if at == apart else '')}>"
        + "".join(_cell(row.get(c), "number" if c in numeric else "") for c in columns)
        + "</tr>"
        for at, row in enumerate(rows, 1)
    )
    found = f'<div class="table"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    return f"<details><summary>{len(rows):,} rows</summary>{found}</details>" if folded else found


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _cell(value: Any, kind: str) -> str:
    if isinstance(value, Cell):
        error = f" <small>{escape(value.error)}</small>" if value.error else ""
        near = "≈ " if value.mark == "near" else ""
        kinds = " ".join(filter(None, (kind, value.mark)))
        return f"<td{_class(kinds)}>{near}{escape(value.told)}{error}</td>"
    return f"<td{_class(kind)}>{_value(value)}</td>"


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return number(value)
    return escape(f"{value:,}" if isinstance(value, int) else str(value))


def _code(text: str) -> str:
    """`words` in a sentence as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
