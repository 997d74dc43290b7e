"""Analogies: A is to B as C is to D, for the quadruples of tasks that the suite knows."""

from __future__ import annotations

from taskvec.bench.given import Given
from taskvec.bench.tuned import tuned
from taskvec.bench.work import Plain
from taskvec.errors import ParameterError
from taskvec.evaluate import analogies


def analogy(given: Given) -> Plain:
    """C + (B − A) on D, beside its parts and D's own vector; their tasks are fine-tuned, too.

    Raises:
        ParameterError: the suite has no quadruples.
    """
    work, settings, rows = given.work, given.work.settings, []
    if not work.suite.analogies:
        raise ParameterError(f"the suite '{work.suite.name}' knows of no analogies between its tasks.")
    quadruples = [tuple(task.name for task in each) for each in work.suite.analogies]
    parts_of = tuned(work, given.tuned.seed, dict.fromkeys(name for each in quadruples for name in each))
    for four in quadruples:
        target = [four[3]]

        def compute(four: tuple[str, ...] = four, target: list[str] = target) -> Plain:
            row: Plain
            (row,) = analogies(
                work.encoder,
                parts_of.vectors,
                [four],  # type: ignore[list-item]
                validation=work.val(target),
                test=work.test(target),
                scales=settings.scales,
                linear=work.linear,
                autocast=not work.linear,
            ).plain()["analogy"]
            return row

        parts = {
            **work.about(target),
            "vectors": {name: parts_of.keys[name] for name in four},
            "four": four,
            "scales": settings.scales,
            "limit": settings.limit,
            "validation": settings.chosen_on,
        }
        rows.append(work.piece(f"{four[0]} is to {four[1]} as {four[2]} is to {four[3]}", parts, compute))
    return {"analogy": rows}
