"""The report of an `Analysis`: figures for the tables that have one, and every table with what its numbers mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskvec.report._axes import even
from taskvec.report._chart import line_chart
from taskvec.report._heat import heat_map
from taskvec.report._page import facts, figure, figures, page, section, table
from taskvec.report._shapes import COLORS

if TYPE_CHECKING:
    from taskvec.analyze import Analysis

_FOLDED = 30  # rows: longer tables are folded


def analysis_page(analysis: Analysis, *, title: str = "Task vectors") -> str:
    """A self-contained HTML page: what was analyzed, charts, and every table."""
    return page(title, [facts(_about(analysis)), *sections(analysis)])


def sections(analysis: Analysis) -> list[str]:
    """A section for each table: what its numbers mean, its figures, its rows."""
    found = []
    for name in [n for n in _TITLES if n in analysis.tables] + [n for n in analysis.tables if n not in _TITLES]:
        rows = analysis[name]
        drawn = [draw(analysis, name) for draw in _FIGURES.get(name, ()) if rows]
        about = analysis.meanings.get(name, "What was looked at; other tables refer to it by name.")
        found.append(section(_TITLES.get(name, name), about, figures(*drawn), table(rows, folded=len(rows) > _FOLDED)))
    return found


def _about(analysis: Analysis) -> dict[str, str]:
    settings = {k: _plain(v) for k, v in analysis.settings.items() if v is not None}
    return {"vectors": ", ".join(analysis.tasks), "base": analysis.base or "not recorded", **settings}


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


_TITLES = {
    "gram": "Cosines",
    "norms": "Norms",
    "gram_spectrum": "How many directions there are",
    "sti": "Singular Task Interference, layer by layer",
    "sti_pairs": "Singular Task Interference, pair by pair",
    "energy": "Energy of the singular values",
    "overlap": "Overlap of subspaces",
    "sar": "Alignment with the merged vector",
    "conflict": "Sign conflicts",
    "conflict_pairs": "Sign conflicts, pair by pair",
    "layer_norms": "Norms, tensor by tensor",
    "tensors": "Tensors",
}

Draw = Callable[["Analysis", str], str]


def _square(column: str, caption: str, *, total: bool = False, limits: tuple[float, float] | None = None) -> Draw:
    """A heat map of a column by pair of tasks, over the tensors its sum (`total`) or mean."""

    def draw(analysis: Analysis, table: str) -> str:
        found = analysis.profile(table, column, ("task", "other"), total=total)
        tasks = analysis.tasks
        values = [[found.get((a, b), found.get((b, a))) for b in tasks] for a in tasks]
        return figure(heat_map(tasks, tasks, values, title=caption, limits=limits), caption)

    return draw


def _by_depth(column: str, by: str, caption: str, vertical: str) -> Draw:
    """Lines over the depth of the tensors: the mean of a column, a line for each value of `by`, the largest first."""

    def draw(analysis: Analysis, table: str) -> str:
        lines: dict[str, list[tuple[float, float]]] = {}
        for (line, depth), value in sorted(analysis.profile(table, column, (by, "depth")).items()):
            lines.setdefault(line, []).append((float(depth), value))
        shown = sorted(lines, key=lambda k: -max(y for _, y in lines[k]))[: 2 * len(COLORS)]
        if not shown:
            return ""
        points = [point for line in lines.values() for point in line]
        chart = line_chart(
            lines,
            title=caption,
            horizontal=even((x for x, _ in points), "layer", whole=True),
            vertical=even((y for _, y in points), vertical, zero=True),
            dim=lines.keys() - set(shown),
        )
        return figure(chart, caption)

    return draw


_FIGURES: Mapping[str, Sequence[Draw]] = {
    "gram": (_square("cosine", "Cosine of every two task vectors.", limits=(-1.0, 1.0)),),
    "sti": (_by_depth("value", "kind", "STI by layer, a line for each kind of matrix (* is the layer).", "STI"),),
    "sti_pairs": (_square("value", "STI of every two tasks, summed over the matrices.", total=True),),
    "energy": (
        _by_depth(
            "kept_0.1",
            "task",
            "Energy in the largest tenth of the singular values, mean of a layer.",
            "share kept",
        ),
        _by_depth("effective_rank", "kind", "Effective rank by layer, mean over the tasks.", "effective rank"),
    ),
    "overlap": (
        _square("left", "Overlap of the left subspaces, mean over the matrices."),
        _square("right", "Overlap of the right subspaces, mean over the matrices."),
    ),
    "sar": (_by_depth("value", "task", "Alignment ratio by layer, mean of a layer's matrices.", "SAR"),),
    "conflict_pairs": (_square("share", "Share of entries moved in opposite directions."),),
}
