"""The protocols that are shown as one table each: title, what the numbers mean, and the columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from taskvec.report._page import section, table
from taskvec.report._seeds import Plain, accuracy, rows_of

_FOLDED = 30
_SIDES = ("target_before", "target_after", "control_before", "control_after")


@final
@dataclass(frozen=True, slots=True)
class Table:
    """`columns`: head → the row's entry, and whether it is a share that is shown in percent."""

    title: str
    about: str
    columns: Mapping[str, tuple[str, bool]]
    rows: Callable[[Plain], Sequence[Plain]]


def protocol_table(run: Plain, key: str) -> str:
    """The section of a protocol of one seed; nothing where it was not run."""
    known = TABLES[key]
    rows = known.rows(run)
    if not rows:
        return ""
    shown = [{head: _shown(row, *column) for head, column in known.columns.items()} for row in rows]
    return section(known.title, known.about, table(shown, folded=len(shown) > _FOLDED))


def _shown(row: Plain, path: str, share: bool) -> Any:
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return accuracy(value) if share and isinstance(value, int | float) else value


def _beside_negation(run: Plain) -> list[Plain]:
    """The mean over the targets of each thing that was taken away."""
    own = [{"name": "task vector", **{side: row[side]["value"] for side in _SIDES}} for row in rows_of(run, "negation")]
    found: dict[str, list[Plain]] = {}
    others = [*rows_of(run, "negation_baselines"), *rows_of(run, "gradient_ascent")]
    for row in [*own, *others] if others else []:
        found.setdefault(row["name"], []).append(row)
    return [
        {"name": name, **{side: sum(row[side] for row in rows) / len(rows) for side in _SIDES}}
        for name, rows in found.items()
    ]


def _rows(key: str) -> Callable[[Plain], Sequence[Plain]]:
    return lambda run: rows_of(run, key)


TABLES: Mapping[str, Table] = {
    "negation_baselines": Table(
        "Negated: beside the task vector",
        "Mean accuracy over the targets, in percent, of what else could be taken away; gradient ascent is added whole, "
        "whatever happens to the control.",
        {"what": ("name", False), **{side.replace("_", " "): (side, True) for side in _SIDES}},
        _beside_negation,
    ),
    "to_first_order": Table(
        "To first order (post-hoc linearized)",
        "Vectors of ordinary fine-tuning on the model to first order in its weights; normalized within this regime.",
        {
            "what": ("name", False),
            "scale": ("scale", False),
            "accuracy": ("mean", True),
            "normalized": ("normalized", True),
            "at scale 1": ("mean_at_one", True),
        },
        _rows("to_first_order"),
    ),
    "disentanglement_pairs": Table(
        "Disentanglement of all pairs",
        "ξ(1, 1), in [0, 2]: how often predictions change where the other vector, as trained, is added.",
        {"first": ("first", False), "second": ("second", False), "error": ("at_one", False)},
        _rows("disentanglement_pairs"),
    ),
    "bases": Table(
        "Bases: fewer vectors than tasks",
        "The sum of the basis vectors at its best scale; each task as recovered from them, with the largest relative "
        "error; and the negation of recovered tasks. In percent.",
        {
            "solver": ("name", False),
            "vectors": ("size", False),
            "sum": ("mean", True),
            "normalized": ("normalized", True),
            "single tasks": ("single_mean", True),
            "largest error": ("largest_error", True),
            "target after": ("target_after", True),
            "control after": ("control_after", True),
        },
        _rows("bases"),
    ),
    "arrival": Table(
        "Online arrival",
        "Accuracy on the tasks that have come, in percent, after each arrival; merged anew each time.",
        {
            "method": ("name", False),
            "arrived": ("arrived", False),
            "tasks": ("count", False),
            "accuracy": ("mean", True),
            "normalized": ("normalized", True),
            "scale": ("scale", False),
        },
        _rows("arrival"),
    ),
    "few_shot": Table(
        "A task held out: few shots",
        "Coefficients of the other tasks' vectors, or of a basis of them, from few examples a class: loss on these "
        "(nats), test accuracy in percent.",
        {
            "target": ("target", False),
            "vectors": ("vectors", False),
            "loss before": ("loss_before", False),
            "loss after": ("loss_after", False),
            "before": ("before.value", True),
            "after": ("after.value", True),
        },
        _rows("few_shot"),
    ),
    "local_energy": Table(
        "Local energy of the tangent kernel",
        "Of the eigenfunctions that hold 90 % of a task's function: mean energy on the task's texts and on the "
        "other's; ratio 1 is nowhere in particular.",
        {
            "task": ("task", False),
            "other": ("control", False),
            "on task": ("on_task", False),
            "on other": ("on_control", False),
            "ratio": ("ratio", False),
            "functions": ("selected", False),
        },
        _rows("local_energy"),
    ),
    "analogy": Table(
        "Analogies",
        "A is to B as C is to D: test accuracy on D in percent, of the base, of parts, of C + (B − A), of D's own.",
        {
            "A": ("a", False),
            "B": ("b", False),
            "C": ("c", False),
            "D": ("target", False),
            "base": ("base.value", True),
            "B alone": ("b_alone.score.value", True),
            "C alone": ("c_alone.score.value", True),
            "analogy": ("analogy.score.value", True),
            "own": ("tuned.value", True),
        },
        _rows("analogy"),
    ),
}
