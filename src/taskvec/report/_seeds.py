"""The records of several seeds side by side: rows by name, means, and how far the seeds spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taskvec.report._page import Cell

Plain = Mapping[str, Any]


def rows_of(run: Plain, section: str) -> list[Plain]:
    """The rows of a section: a list, or a record that has them under the section's own name; none where it is not."""
    found = run.get(section) or []
    rows = found.get(section, []) if isinstance(found, Mapping) else found
    return list(rows)


def by_name(runs: Iterable[Plain], section: str) -> dict[str, list[Plain]]:
    """The rows of a section, one a seed, by name."""
    found: dict[str, list[Plain]] = {}
    for run in runs:
        for row in rows_of(run, section):
            found.setdefault(row["name"], []).append(row)
    return found


def by_task(runs: Iterable[Plain], section: str) -> dict[str, list[Plain]]:
    """The scores of a section such as "tuned", one a seed, by task."""
    found: dict[str, list[Plain]] = {}
    for run in runs:
        for score in (run.get(section) or {}).get("rows", []):
            found.setdefault(score["task"], []).append(score)
    return found


def mean(rows: Sequence[Plain], column: str) -> float:
    """Over the seeds."""
    return statistics.fmean(row[column] for row in rows)


def spread(rows: Sequence[Plain], column: str) -> float | None:
    """The sample standard deviation over the seeds; None for one."""
    return statistics.stdev(row[column] for row in rows) if len(rows) > 1 else None


def accuracy(value: float, stderr: float | None = None) -> Cell:
    """In percent, one digit, with the standard error of the inputs."""
    return Cell(f"{100 * value:.1f}", "" if stderr is None else f"± {100 * stderr:.1f}")


def score_of(rows: Sequence[Plain]) -> Cell:
    """The score of one task."""
    return accuracy(mean(rows, "value"), mean(rows, "stderr"))


def marked(rows: Sequence[Sequence[Plain]]) -> list[Cell]:
    """The accuracy of each row; marked are the best, and those within one standard error of it."""
    if not rows:
        return []
    means = [mean(each, "mean") for each in rows]
    best = max(range(len(rows)), key=means.__getitem__)
    least = means[best] - mean(rows[best], "stderr")
    cells = []
    for each, value in zip(rows, means, strict=True):
        cell = accuracy(value, mean(each, "stderr"))
        mark = "best" if value == means[best] else "near" if value >= least else None
        cells.append(Cell(cell.told, cell.error, mark))  # type: ignore[arg-type]
    return cells
