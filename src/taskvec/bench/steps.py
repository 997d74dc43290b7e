"""The steps that several protocols are made of: an addition and a negation, each on scales that reach past the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskvec.bench.given import Given
from taskvec.bench.work import Plain, Work
from taskvec.errors import ParameterError
from taskvec.evaluate import addition, negation
from taskvec.evaluate.negation import NegationRow
from taskvec.vector import TaskVector

Vector = Callable[[], TaskVector]
"""Made only where its scores are not known."""

SIDES = ("target_before", "target_after", "control_before", "control_after")


def added(
    given: Given, what: str, vector: Vector, parts: Mapping[str, Any], *, scales: Sequence[float] | None = None
) -> Plain:
    """A row of the addition protocol: base + scale × vector on all tasks; on these scales alone, if they are given."""
    work, settings, tasks = given.work, given.work.settings, given.work.suite.names()
    refine = settings.refine if scales is None else 0

    def search(tried: Sequence[float]) -> Plain:
        def compute() -> Any:
            return addition(
                work.encoder,
                {what: vector()},
                validation=work.val(tasks),
                test=work.test(tasks),
                single_validation=given.val,
                single_test=given.test,
                scales=tried,
                refine=refine,
                linear=work.linear,
                autocast=not work.linear,
            ).plain()["addition"][0]

        known = {
            **work.about(tasks),
            "vectors": given.tuned.keys,
            **parts,
            "scales": tried,
            "refine": refine,
            "limit": settings.limit,
            "validation": settings.chosen_on,
        }
        row: Plain = work.piece(f"merged by {what}", known, compute)
        return row

    return reaching(search, settings.scales, settings.beyond) if scales is None else reaching(search, scales, ())


def negated(given: Given, what: str, target: str, vector: Vector, parts: Mapping[str, Any]) -> Plain:
    """A row of the negation protocol: base − scale × vector on the target and its control."""
    work, settings = given.work, given.work.settings
    control = control_of(work, target)
    two = (target, control)

    def search(tried: Sequence[float]) -> Plain:
        def compute() -> Any:
            return negation(
                work.encoder,
                {target: vector()},
                controls={target: control},
                validation=work.val(two),
                test=work.test(two),
                scales=tried,
                regime=settings.regime,
                linear=work.linear,
                autocast=not work.linear,
            ).plain()["negation"][0]

        known = {
            **work.about(two),
            "vector": given.tuned.keys[target],
            **parts,
            "scales": tried,
            "limit": settings.limit,
            "validation": settings.chosen_on,
        }
        row: Plain = work.piece(what, known, compute)
        return row

    return reaching(search, settings.negation_scales, settings.beyond, always=(0.0,))


def reaching(
    search: Callable[[Sequence[float]], Plain],
    scales: Sequence[float],
    beyond: Sequence[float],
    *,
    always: tuple[float, ...] = (),
) -> Plain:
    """The row at the best scale; where that is the largest of `scales` or more, those `beyond` are tried, too.

    `at_edge` says that a scale that was not tried may be better still: the best is the least or the largest.
    """
    row = search(scales)
    tried = _tried(row, scales)
    if beyond and row["scale"] >= max(scales):
        upper = tried[max(tried.index(row["scale"]) - 1, 0) :]
        wider = search((*always, *(scale for scale in upper if scale not in always), *beyond))
        curve = {scale: value for scale, value in (*row.get("curve", ()), *wider.get("curve", ()))}
        row = {**wider, "curve": [list(point) for point in sorted(curve.items())]} if curve else wider
        tried = sorted({*tried, *_tried(wider, beyond)})
    edges = {tried[0], tried[-1]} - {0.0, *always} if len(tried) > 1 else set()
    return {**row, "at_edge": row["scale"] in edges}


def _tried(row: Plain, scales: Sequence[float]) -> list[float]:
    return sorted({*scales, *(scale for scale, _ in row.get("curve", ()))})


def targets_of(work: Work) -> tuple[str, ...]:
    """The tasks that are negated."""
    return work.settings.targets or work.suite.names()


def control_of(work: Work, target: str) -> str:
    """The task that must stay when `target` is negated.

    Raises:
        ParameterError: there is none.
    """
    control = work.suite.control_of(target)
    if control is None:
        raise ParameterError(f"there is no control for the negation of '{target}'.", "give the suite another task.")
    return control.name


def scalars(name: str, row: NegationRow) -> Plain:
    """A row of negation with four accuracies, under the name of what was taken away."""
    values = {side: getattr(row, side).value for side in SIDES}
    return {"name": name, "target": row.target, "control": row.control, "scale": row.scale, **values}
