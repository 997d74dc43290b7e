"""What the protocols are read beside: random vectors negated, and ordinary fine-tuning looked at to first order."""

from __future__ import annotations

from typing import Any

from taskvec.bench.pieces import control_of
from taskvec.bench.tuned import Tuned
from taskvec.bench.work import Work
from taskvec.engine.merge import merge
from taskvec.evaluate import addition, deltas_of, negation, own_scores, random_like

Table = list[dict[str, Any]]
POSTHOC = "posthoc"


def negated_at_random(work: Work, tuned: Tuned) -> Table:
    """Negation of a random vector in the place of each target's, of the same norm in every tensor."""
    settings, rows = work.settings, []
    for target in settings.targets or work.suite.names():
        two = (target, control_of(work, target))

        def compute(two: tuple[str, str] = two) -> dict[str, Any]:
            drawn = random_like(deltas_of(work.encoder, tuned.vectors[two[0]]), seed=tuned.seed)
            (row,) = negation(
                work.encoder,
                {two[0]: drawn},
                controls={two[0]: two[1]},
                validation=work.val(two),
                test=work.test(two),
                scales=settings.negation_scales,
                regime=settings.regime,
                linear=work.linear,
                autocast=not work.linear,
            ).rows
            sides = {f"{side}_{when}": getattr(row, f"{side}_{when}").value for side, when in _SIDES}
            return {"target": row.target, "control": row.control, "scale": row.scale, **sides}

        parts = {
            **work.about(two),
            "vector": tuned.keys[target],
            "seed": tuned.seed,
            "scales": settings.negation_scales,
            "limit": settings.limit,
            "validation": settings.chosen_on,
        }
        rows.append(work.piece(f"without a random vector like {target}", parts, compute))
    return rows


_SIDES = (("target", "before"), ("target", "after"), ("control", "before"), ("control", "after"))


def posthoc(work: Work, tuned: Tuned) -> Table:
    """Vectors of a regime that is not linear, evaluated to first order: each task's own, and the sum of all.

    Empty for linear regimes, where this is what everything else does.
    """
    if work.linear:
        return []
    tasks, settings = work.suite.names(), work.settings

    def compute() -> Table:
        single = [
            own_scores(work.encoder, tuned.vectors, inputs, regime=POSTHOC, linear=True)
            for inputs in (work.val(tasks), work.test(tasks))
        ]
        (added,) = addition(
            work.encoder,
            {"task_arithmetic": merge("task_arithmetic", tuned.vectors)},
            validation=work.val(tasks),
            test=work.test(tasks),
            single_validation=single[0],
            single_test=single[1],
            scales=settings.scales,
            refine=settings.refine,
            linear=True,
        ).plain()["addition"]
        own = {"name": "each task's own", "scale": 1.0, "mean": single[1].mean, "stderr": single[1].mean_stderr}
        columns = ("name", "scale", "mean", "stderr", "normalized", "mean_at_one")
        return [own, {column: added[column] for column in columns}]

    parts = {
        **work.about(tasks),
        "vectors": tuned.keys,
        "scales": settings.scales,
        "refine": settings.refine,
        "limit": settings.limit,
        "validation": settings.chosen_on,
    }
    table: Table = work.piece("the vectors to first order", parts, compute)
    return table
