"""One HTML page that holds all it needs: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from taskvec.report._svg import number

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --dim: #666; --rule: #ddd; --page: #fff; --head: #f4f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --dim: #a0a0a0; --rule: #444; --page: #1b1c1e; --head: #26282b; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--rule); padding-bottom: .2rem; }
p.about, dt, summary, figcaption { color: var(--dim); }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; }
svg text:not([fill]) { fill: var(--ink); }
svg .grid { stroke: var(--rule); }
.table { overflow: auto; max-height: 28rem; border: 1px solid var(--rule); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; width: 100%; }
th { position: sticky; top: 0; background: var(--head); text-align: left; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
td.number, th.number { text-align: right; }
summary { cursor: pointer; margin: .6rem 0; }
"""


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


def table(rows: Sequence[Mapping[str, Any]], *, folded: bool) -> str:
    """A table of rows with the same columns, as they come; `folded` behind a line that says how long it is."""
    if not rows:
        return '<p class="about">Nothing to show.</p>'
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {c for c in columns if all(isinstance(row.get(c), int | float | None) for row in rows)}
    head = "".join(f"<th{_class(c in numeric)}>{escape(c)}</th>" for c in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td{_class(c in numeric)}>{_value(row.get(c))}</td>" for c in columns) + "</tr>"
        for row in rows
    )
    found = f'<div class="table"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    return f"<details><summary>{len(rows):,} rows</summary>{found}</details>" if folded else found


def _class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


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
