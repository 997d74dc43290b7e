"""Post-hoc linearization: vectors of ordinary fine-tuning, evaluated to first order."""

from __future__ import annotations

from typing import Any

from taskvec import evaluate
from taskvec.bench.given import Given
from taskvec.bench.singles import single
from taskvec.bench.work import Plain
from taskvec.engine.merge import merge
from taskvec.errors import ParameterError


def to_first_order(given: Given) -> list[Plain]:
    """Two rows: each task's own vector, and the sum of all, normalized within this regime.

    Raises:
        ParameterError: the vectors' own regime is linear.
    """
    work, settings, tasks = given.work, given.work.settings, given.work.suite.names()
    if work.linear:
        raise ParameterError(f"vectors of the regime '{settings.regime}' are evaluated to first order anyway.")

    def compute() -> list[Plain]:
        val, test = (single(work, given.tuned, split, posthoc=True) for split in ("val", "test"))
        (added,) = evaluate.addition(
            work.encoder,
            {"task_arithmetic": merge("task_arithmetic", given.tuned.vectors)},
            validation=work.val(tasks),
            test=work.test(tasks),
            single_validation=val,
            single_test=test,
            scales=settings.scales,
            refine=settings.refine,
            linear=True,
        ).plain()["addition"]
        own = {"name": "each task's own", "scale": 1.0, "mean": test.mean, "stderr": test.mean_stderr}
        columns = ("name", "scale", "mean", "stderr", "normalized", "mean_at_one")
        return [own, {column: added[column] for column in columns}]

    parts: dict[str, Any] = {
        **work.about(tasks),
        "vectors": given.tuned.keys,
        "scales": settings.scales,
        "refine": settings.refine,
        "limit": settings.limit,
        "validation": settings.chosen_on,
    }
    rows: list[Plain] = work.piece("the vectors to first order", parts, compute)
    return rows
