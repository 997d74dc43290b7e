"""What negation is read beside: scale 1, a random vector, and the model to first order."""

from __future__ import annotations

from typing import Any

from taskvec.bench.given import Given
from taskvec.bench.singles import POSTHOC
from taskvec.bench.steps import control_of, scalars, targets_of
from taskvec.bench.work import Plain
from taskvec.evaluate import deltas_of, negated_at, random_like, search_negation
from taskvec.evaluate import negation as negate


def negation_baselines(given: Given) -> list[Plain]:
    """Four rows a target, two where the vectors are to first order already."""
    work, rows = given.work, []
    for target in targets_of(work):
        two = (target, control_of(work, target))
        for what, row in (("at scale 1", _at_one), ("random vector", _random)):
            rows.append({**row(given, two), "name": what})
        rows += [] if work.linear else _to_first_order(given, two)
    return rows


def _parts(given: Given, two: tuple[str, str]) -> dict[str, Any]:
    settings = given.work.settings
    return {**given.work.about(two), "vector": given.tuned.keys[two[0]], "limit": settings.limit}


def _chosen(given: Given) -> dict[str, Any]:
    settings = given.work.settings
    return {"scales": settings.negation_scales, "validation": settings.chosen_on}


def _at_one(given: Given, two: tuple[str, str]) -> Any:
    work = given.work

    def compute() -> Plain:
        (row,) = negated_at(
            work.encoder,
            given.tuned.vectors[two[0]],
            *two,
            test=work.test(two),
            scales=[1.0],
            regime=work.settings.regime,
            linear=work.linear,
            autocast=not work.linear,
        )
        return scalars("at scale 1", row)

    return work.piece(f"without {two[0]}, at scale 1", _parts(given, two), compute)


def _random(given: Given, two: tuple[str, str]) -> Any:
    """Of the same norm in every tensor."""
    work, settings = given.work, given.work.settings

    def compute() -> Plain:
        drawn = random_like(deltas_of(work.encoder, given.tuned.vectors[two[0]]), seed=given.tuned.seed)
        (row,) = negate(
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
        return scalars("random vector", row)

    parts = {**_parts(given, two), **_chosen(given), "seed": given.tuned.seed}
    return work.piece(f"without a random vector like {two[0]}", parts, compute)


def _to_first_order(given: Given, two: tuple[str, str]) -> Any:
    """At the scale that validation chooses, and at 1."""
    work, vector = given.work, given.tuned.vectors[two[0]]

    def compute() -> list[Plain]:
        found = search_negation(
            work.encoder,
            work.val(two),
            deltas_of(work.encoder, vector),
            target=two[0],
            control=two[1],
            scales=work.settings.negation_scales,
            regime=POSTHOC,
            linear=True,
        )
        scales, names = (found.scale, 1.0), ("to first order", "to first order, at scale 1")
        rows = negated_at(work.encoder, vector, *two, test=work.test(two), scales=scales, regime=POSTHOC, linear=True)
        return [scalars(name, row) for name, row in zip(names, rows, strict=True)]

    parts = {**_parts(given, two), **_chosen(given), "regime": POSTHOC, "linear": True}
    return work.piece(f"without {two[0]}, to first order", parts, compute)
