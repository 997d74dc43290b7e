"""Negated: each target forgotten as far as its control allows."""

from __future__ import annotations

from functools import partial

from taskvec.bench.given import Given
from taskvec.bench.steps import control_of, negated, targets_of
from taskvec.bench.work import Plain


def negation(given: Given) -> Plain:
    """Base − scale × vector, for every target.

    Raises:
        ParameterError: a suite of one task without a control.
    """
    rows, vectors = [], given.tuned.vectors
    for target in targets_of(given.work):
        what = f"without {target}, keeping {control_of(given.work, target)}"
        rows.append(negated(given, what, target, partial(vectors.__getitem__, target), {}))
    means = {side: sum(row[f"{side}_after"]["value"] for row in rows) / len(rows) for side in ("target", "control")}
    return {**means, "negation": rows}
