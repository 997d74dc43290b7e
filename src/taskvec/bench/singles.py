"""What every protocol is read beside: the base as it is, and each task from its own vector."""

from __future__ import annotations

from typing import Any

from taskvec.bench.tuned import Tuned
from taskvec.bench.work import Plain, Work, scores_from
from taskvec.evaluate import Score, Scores, line, own_scores

POSTHOC = "posthoc"
"""The regime of ordinary vectors on the model to first order."""


def zero_shot(work: Work) -> Plain:
    """Scores of the base on the test inputs."""
    tasks = work.suite.names()

    def compute() -> Plain:
        regime, linear = work.settings.regime, work.linear
        with line(work.encoder, work.test(tasks), {}, regime=regime, linear=linear, autocast=not linear) as at:
            return at(0.0).plain()

    parts = {**work.about(tasks), "limit": work.settings.limit}
    found: Plain = work.piece("the base on test", parts, compute)
    return found


def single(work: Work, tuned: Tuned, split: str, *, posthoc: bool = False) -> Scores:
    """Each task from its own vector; `posthoc`: of the model to first order, though the vectors are of another."""
    limit = work.settings.chosen_on if split == "val" else work.settings.limit
    regime, linear = (POSTHOC, True) if posthoc else (work.settings.regime, work.linear)
    rows: list[Score] = []
    for name in work.suite.names():
        inputs = work.inputs(split, [name], limit)

        def compute(name: str = name, inputs: Any = inputs) -> Plain:
            vectors = {name: tuned.vectors[name]}
            return own_scores(work.encoder, vectors, inputs, regime=regime, linear=linear, autocast=not linear).plain()

        parts = {**work.about([name]), "vector": tuned.keys[name], "limit": limit, "regime": regime, "linear": linear}
        how = "to first order" if posthoc else "fine-tuned"
        rows += scores_from(work.piece(f"{name}, {how}, on {split}", parts, compute)).rows
    return Scores(rows=tuple(rows), suite=work.suite.name, split=split, regime=regime)
