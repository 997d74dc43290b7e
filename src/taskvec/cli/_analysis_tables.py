"""What `analyze` prints: the numbers by task, by layer, by kind of matrix and by pair of tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from taskvec.cli import _tables as tables
from taskvec.cli._console import counted

if TYPE_CHECKING:
    from rich.table import Table

    from taskvec.analyze import Analysis

_KINDS, _PAIRS = 12, 8  # lines; the page and the data have all


@final
@dataclass(frozen=True, slots=True)
class _Measure:
    """A column: its heading, where its numbers are, and how they are written."""

    head: str
    table: str
    column: str
    style: str
    total: bool = False

    def by(self, found: Analysis, keys: Sequence[str]) -> dict[tuple[Any, ...], float]:
        """The numbers; none where the analysis was not asked for."""
        return found.profile(self.table, self.column, keys, total=self.total) if self.table in found.tables else {}


_SPECTRA = (
    _Measure("eff. rank", "energy", "effective_rank", ".4g"),
    _Measure("energy", "energy", "kept_0.1", ".1%"),
    _Measure("aligned", "sar", "value", ".3f"),
)
_TASKS = (_Measure("norm", "norms", "norm", ".4g"), *_SPECTRA)
_MATRICES = (_Measure("STI", "sti", "value", ".4g", total=True), *_SPECTRA)
_LAYERS = (*_MATRICES, _Measure("conflicts", "conflict", "share", ".1%"))
_BOTH = (
    _Measure("cosine", "gram", "cosine", ".3f"),
    _Measure("STI", "sti_pairs", "value", ".4g", total=True),
    _Measure("left", "overlap", "left", ".3f"),
    _Measure("right", "overlap", "right", ".3f"),
    _Measure("conflicts", "conflict_pairs", "share", ".1%"),
)
_WORDS = {
    "energy": "of the squared norm, in the largest tenth of the singular values",
    "aligned": "share of a task's norm in the leading subspace of the merged vector",
    "left": "overlap of two tasks' subspaces of outputs; right: of inputs",
    "conflicts": "entries that tasks move in opposite directions, of those they move",
}


def analysis_parts(found: Analysis) -> list[Any]:
    """The totals, what the columns mean, and the tables that there are numbers for."""
    each = [
        _table(found, ("task",), ("task",), _TASKS, lines=None),
        _table(found, ("layer",), ("depth",), _LAYERS, lines=None),
        _table(found, ("matrices",), ("kind",), _MATRICES, lines=_KINDS),
        _table(found, ("pair", ""), ("task", "other"), _BOTH, lines=_PAIRS),
    ]
    shown = [table for table in each if table is not None]
    heads = {str(column.header) for table in shown for column in table.columns}
    words = [(head, text) for head, text in _WORDS.items() if head in heads]
    about = tables.rows([("tasks", ", ".join(found.tasks)), *_totals(found), *words])
    parts = [tables.heading("analyzed", counted(len(found.tasks), "task vector")), about]
    return parts + [part for table in shown for part in ("", table)]


def _totals(found: Analysis) -> list[tuple[str, str]]:
    totals = [("tensors", f"{len(found['tensors']):,}")]
    if "sti" in found.tables:
        rows = [row for row in found["sti"] if row["rank"]]
        over = counted(len(rows), "matrix", "matrices")
        totals.append(("STI", f"{_sum(rows, 'value'):.4g} over {over}, {found.settings['norm']} norm"))
        if found.settings["whiten"]:
            totals.append(("whitened", f"{_sum(rows, 'whitened'):.4g}"))
    return totals


def _sum(rows: Sequence[dict[str, Any]], column: str) -> float:
    return math.fsum(row[column] for row in rows)


def _table(
    found: Analysis, heads: Sequence[str], keys: Sequence[str], measures: Sequence[_Measure], *, lines: int | None
) -> Table | None:
    """The measures that there are, side by side; where `lines` bounds the table, those with the largest come first."""
    columns = {measure: by for measure in measures if (by := measure.by(found, keys))}
    if not columns:
        return None
    names = list(dict.fromkeys(name for by in columns.values() for name, value in by.items() if value))
    if lines is None:
        names = sorted(names) if keys == ("depth",) else names
    else:
        first = next(iter(columns.values()))
        names = sorted(names, key=lambda name: -abs(first.get(name, 0.0)))
    shown = [
        (*map(str, name), *(format(by[name], m.style) if name in by else "–" for m, by in columns.items()))
        for name in names[:lines]
    ]
    more = f" ({lines} of {len(names)})" if lines is not None and len(names) > lines else ""
    return tables.columns((heads[0] + more, *heads[1:], *(m.head for m in columns)), shown, left=len(heads))
