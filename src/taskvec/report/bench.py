"""The report of a suite: what each task, merge, codec and negation scored, as tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskvec.analyze import Analysis
from taskvec.report._axes import even, powers
from taskvec.report._chart import Point, line_chart, scatter
from taskvec.report._heat import heat_map
from taskvec.report._page import Cell, facts, figure, figures, page, section, table
from taskvec.report._seeds import (
    Plain,
    accuracy,
    by_name,
    by_task,
    marked,
    mean,
    rows_of,
    score_of,
    spread,
)
from taskvec.report._shapes import nbytes, percent
from taskvec.report._tables import TABLES, protocol_table
from taskvec.report.analysis import sections

_BRIGHT = 8  # curves in color: those that reach highest
_KNOWN = (
    "suite", "runs", "summary", "seed", "zero_shot", "tuned", "addition", "compression", "negation", "disentanglement",
    "analysis", "skipped", *TABLES, "nonlinear_advantage", "gradient_ascent",
)  # fmt: skip
_EDGE = "Scale with *: the least or the largest that was tried."
_MARKS = "Bold: the best; ≈ within one standard error of it. ± is the standard error over the test inputs."


def bench_page(record: Mapping[str, Any]) -> str:
    """One self-contained HTML page of a suite's results.

    Args:
        record: plain data, as JSON holds it: `suite` (a name, or a mapping with `name`), and the results of one run, or
            under `runs` those of several seeds: `zero_shot` and `tuned` (`Scores.plain()`), `addition`, `compression`,
            `negation`, `disentanglement` (one or a list), `analysis` (`Analysis.plain()`), `skipped` (name → reason).
            Sections that are missing are left out; other lists of rows become plain tables.
    """
    runs: Sequence[Plain] = record.get("runs") or [record]
    suite = record.get("suite", "a suite")
    name = suite.get("name", "a suite") if isinstance(suite, Mapping) else str(suite)
    parts = [
        facts(_about(record)),
        _single(runs),
        _addition(runs),
        _compression(runs),
        _negation(runs),
        _disentanglement(runs),
        *(protocol_table(runs[0], key) for key in TABLES),
        *_analysis([record, *runs]),
        _skipped([record, *runs]),
        *_others([record, *runs]),
    ]
    return page(f"Task vectors on {name}", [part for part in parts if part])


def _about(record: Plain) -> dict[str, str]:
    """What the numbers depend on, but for the tasks: these have a table."""
    suite = record.get("suite", {})
    known = dict(suite) if isinstance(suite, Mapping) else {"suite": suite}
    known |= {key: value for key, value in record.items() if key not in _KNOWN and not _is_table(value)}
    told = {key.replace("_", " "): _told(value) for key, value in known.items() if not _is_table(value)}
    return {key: value for key, value in told.items() if value}


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_told(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _single(runs: Sequence[Plain]) -> str:
    before, after = by_task(runs, "zero_shot"), by_task(runs, "tuned")
    if not (before or after):
        return ""
    gains = _advantages(runs)
    rows: list[Plain] = [
        {
            "task": task,
            "inputs": (before.get(task) or after[task])[0]["n"],
            "zero-shot": score_of(before[task]) if task in before else None,
            "fine-tuned": score_of(after[task]) if task in after else None,
            **({"non-linear advantage": gains.get(task)} if gains else {}),
        }
        for task in dict.fromkeys([*before, *after])
    ]
    means: dict[str, Any] = {"task": "mean", "inputs": None}
    heads = ("zero-shot", "zero_shot"), ("fine-tuned", "tuned")
    means |= {head: _mean_of([run[key] for run in runs if run.get(key)]) for head, key in heads}
    if gains:
        found = [run["nonlinear_advantage"] for run in runs if run.get("nonlinear_advantage")]
        means["non-linear advantage"] = accuracy(mean(found, "mean"))
    about = "Test accuracy in percent of the base model, and of one fine-tuned model a task."
    if gains:
        about += (
            " Non-linear advantage: the accuracy less that of the same vector on the model to first order, over "
            "1 − 1/classes, in points."
        )
    return section("One model a task", about, table([means, *rows], apart=1))


def _advantages(runs: Sequence[Plain]) -> dict[str, Cell]:
    known = by_name(runs, "nonlinear_advantage")
    return {name: accuracy(mean(rows, "value"), mean(rows, "stderr")) for name, rows in known.items()}


def _mean_of(scores: Sequence[Plain]) -> Cell | None:
    return accuracy(mean(scores, "mean"), mean(scores, "mean_stderr")) if scores else None


def _addition(runs: Sequence[Plain]) -> str:
    merges = by_name(runs, "addition")
    if not merges:
        return ""
    order = sorted(merges, key=lambda name: -mean(merges[name], "normalized"))
    cells = dict(zip(order, marked([merges[name] for name in order]), strict=True))
    rows: list[Plain] = [
        {
            "method": name,
            "accuracy": cells[name],
            **_over_seeds(runs, merges[name]),
            "normalized": accuracy(mean(merges[name], "normalized")),
            "at scale 1": accuracy(mean(merges[name], "mean_at_one")),
            "scale": _scales(merges[name]),
        }
        for name in order
    ]
    about = (
        "Mean test accuracy over all tasks of one merged model, in percent, at the scale that validation chose; "
        f"normalized: relative to the fine-tuned models, task by task. {_MARKS} {_EDGE}"
    )
    drawn = [_curves(runs, order), _by_task(runs, merges, order)]
    return section("Merged: one model for all tasks", about, table(rows), figures(*drawn))


def _scales(rows: Sequence[Plain]) -> str:
    return ", ".join(f"{row['scale']:.3g}" + "*" * bool(row.get("at_edge")) for row in rows)


def _over_seeds(runs: Sequence[Plain], rows: Sequence[Plain]) -> dict[str, Any]:
    if len(runs) < 2:
        return {}
    found = spread(rows, "mean")
    return {"over seeds": None if found is None else Cell(f"{100 * found:.1f}")}


def _curves(runs: Sequence[Plain], order: Sequence[str]) -> str:
    """The accuracy of each merge on validation along the scale, of the first seed."""
    known = {row["name"]: row["curve"] for row in rows_of(runs[0], "addition") if row.get("curve")}
    curves = {name: [(x, y) for x, y in known[name]] for name in order if name in known}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    highest = sorted(curves, key=lambda name: -max(y for _, y in curves[name]))
    caption = "Mean normalized accuracy on validation along the scale" + _first_of(runs)
    caption += "." if len(curves) <= _BRIGHT else f"; in color the {_BRIGHT} that reach highest."
    chart = line_chart(
        curves,
        title=caption,
        horizontal=even((x for x, _ in points), "scale", zero=True),
        vertical=even((y for _, y in points), "normalized accuracy", told=percent),
        dim=highest[_BRIGHT:],
    )
    return figure(chart, caption)


def _first_of(runs: Sequence[Plain]) -> str:
    return f", seed {runs[0].get('seed', 0)}" if len(runs) > 1 else ""


def _by_task(runs: Sequence[Plain], merges: Mapping[str, list[Plain]], order: Sequence[str]) -> str:
    """Each merge's accuracy on each task, relative to the fine-tuned models where they are known."""
    single = {task: mean(scores, "value") for task, scores in by_task(runs, "tuned").items()}
    found = {name: _task_means(merges[name]) for name in order}
    before = {task: mean(scores, "value") for task, scores in by_task(runs, "zero_shot").items()}
    found = {"zero-shot": before, **found} if before else found
    tasks = list(dict.fromkeys(task for each in found.values() for task in each))
    if not tasks:
        return ""
    values = [[_ratio(each.get(task), single.get(task, 1.0)) for task in tasks] for each in found.values()]
    of = "the fine-tuned model's" if single else "all inputs"
    caption = f"Test accuracy on each task at the chosen scale, in percent of {of}."
    drawn = heat_map(list(found), tasks, values, title=caption, told=lambda value: f"{100 * value:.0f}")
    return figure(drawn, caption)


def _task_means(rows: Sequence[Plain]) -> dict[str, float]:
    found: dict[str, list[Plain]] = {}
    for row in rows:
        for score in row.get("tasks", []):
            found.setdefault(score["task"], []).append(score)
    return {task: mean(scores, "value") for task, scores in found.items()}


def _ratio(value: float | None, whole: float) -> float | None:
    return value / whole if value is not None and whole else None


def _compression(runs: Sequence[Plain]) -> str:
    stored = by_name(runs, "compression")
    if not stored:
        return ""
    order = sorted(stored, key=lambda name: -mean(stored[name], "bytes"))
    cells = dict(zip(order, marked([stored[name] for name in order]), strict=True))
    rows: list[Plain] = [
        {
            "codec": name,
            "bytes": round(mean(stored[name], "bytes")),
            "of float32": accuracy(mean(stored[name], "share")),
            "error": accuracy(mean(stored[name], "error")),
            "accuracy": cells[name],
            **_over_seeds(runs, stored[name]),
            "normalized": accuracy(mean(stored[name], "normalized")),
        }
        for name in order
    ]
    about = (
        "Each task from its stored vector: bytes of all files, in percent of the vectors in float32; relative error of "
        f"all vectors; mean test accuracy in percent. {_MARKS}"
    )
    points = [
        Point(name, mean(stored[name], "bytes"), mean(stored[name], "mean"), mean(stored[name], "stderr"))
        for name in order
    ]
    caption = "Accuracy against bytes; lines are one standard error up and down."
    chart = scatter(
        points,
        title=caption,
        horizontal=powers((p.x for p in points), "bytes of all files", told=nbytes),
        vertical=even((p.y + s * p.error for p in points for s in (-1, 1)), "mean accuracy", told=percent),
    )
    return section("Stored: how many bytes a task needs", about, table(rows), figure(chart, caption))


_SIDES = ("target_before", "target_after", "control_before", "control_after")


def _negation(runs: Sequence[Plain]) -> str:
    found: dict[tuple[str, str], list[Plain]] = {}
    for run in runs:
        for row in rows_of(run, "negation"):
            found.setdefault((row["target"], row["control"]), []).append(row)
    if not found:
        return ""
    rows: list[Plain] = [
        {
            "target": target,
            "control": control,
            "scale": _scales(each),
            **{side.replace("_", " "): score_of([row[side] for row in each]) for side in _SIDES},
        }
        for (target, control), each in found.items()
    ]
    means: dict[str, Any] = {"target": "mean", "control": "", "scale": ""}
    for side in _SIDES:
        values = [row[side]["value"] for each in found.values() for row in each]
        means[side.replace("_", " ")] = accuracy(sum(values) / len(values))
    about = (
        "The base model minus a task's vector, at the scale that forgets the target most on validation while the "
        "control keeps its accuracy; test accuracy in percent. Scale 0: no scale kept the control. "
        f"{_EDGE}"
    )
    return section("Negated: a task forgotten", about, table([means, *rows], apart=1))


def _disentanglement(runs: Sequence[Plain]) -> str:
    known = runs[0].get("disentanglement") or []
    maps = [each for each in ([known] if isinstance(known, Mapping) else known) if each.get("disentanglement")]
    if not maps:
        return ""
    worst = max(row["error"] for each in maps for row in each["disentanglement"])
    about = (
        "ξ(α₁, α₂): how often predictions change when a second task's vector is added, summed over both tasks' inputs; "
        "0 is disentangled, 2 the most. The axes are the two coefficients; both vectors as trained are at (1, 1)."
        f"{_first_of(runs).replace(', seed', ' Seed').rstrip('.')}"
    )
    return section("Disentanglement", about, figures(*(_map(each, worst) for each in maps)))


def _map(found: Plain, worst: float) -> str:
    points = {(row["first"], row["second"]): row["error"] for row in found["disentanglement"]}
    across, down = sorted({a for a, _ in points}), sorted({b for _, b in points}, reverse=True)
    first, second = found["tasks"]
    caption = f"{first} and {second}, {found['regime']} regime: {found['mean']:.2f} on average."
    values = [[points.get((a, b)) for a in across] for b in down]
    labels = [f"{a:g}" for a in across], [f"{b:g}" for b in down]
    limits = 0.0, max(worst, 1.0)
    drawn = heat_map(labels[1], labels[0], values, title=caption, limits=limits, across=first, down=second)
    return figure(drawn, caption)


def _analysis(records: Sequence[Plain]) -> list[str]:
    """The sections of the first analysis there is."""
    found = next((record["analysis"] for record in records if record.get("analysis")), None)
    return [] if found is None else sections(Analysis.from_plain(found))


def _skipped(records: Sequence[Plain]) -> str:
    reasons = {name: reason for record in records for name, reason in (record.get("skipped") or {}).items()}
    rows = [{"what": name, "because": reason} for name, reason in reasons.items()]
    return section("Left out", "What these vectors do not allow.", table(rows)) if rows else ""


def _others(records: Sequence[Plain]) -> list[str]:
    """Tables of rows that no section shows, of the first record that has them."""
    found: dict[str, list[Plain]] = {}
    for record in records:
        for key, value in record.items():
            if key not in _KNOWN and _is_table(value):
                found.setdefault(key, value)
    return [
        section(key.replace("_", " ").capitalize(), "", table([_scalars(row) for row in rows], folded=len(rows) > 30))
        for key, rows in found.items()
    ]


def _scalars(row: Plain) -> dict[str, Any]:
    return {key: value for key, value in row.items() if isinstance(value, str | int | float | None)}
