"""Bases: half and a quarter as many vectors in the place of all, for addition, single tasks and negation."""

from __future__ import annotations

import functools

from taskvec.basis import Basis
from taskvec.bench.given import Given
from taskvec.bench.settings import basis_sizes
from taskvec.bench.steps import added, negated, targets_of
from taskvec.bench.work import Plain
from taskvec.errors import ParameterError
from taskvec.evaluate import own_scores
from taskvec.vector import TaskVector


def bases(given: Given) -> Plain:
    """A row a basis: the sum of its vectors on all tasks, each task as recovered, and its negation.

    Raises:
        ParameterError: a suite of one task, or one that has no control.
    """
    work = given.work
    sizes = basis_sizes(len(work.suite.tasks))
    if not sizes:
        raise ParameterError("a basis of fewer vectors needs two tasks at least.", "give the suite another task.")
    rows = [_row(given, solver, size) for solver in work.settings.bases for size in sizes]
    return {"bases": rows}


def _row(given: Given, solver: str, size: int) -> Plain:
    work, vectors, tasks = given.work, given.tuned.vectors, given.work.suite.names()
    about, label = {"basis": solver, "size": size}, f"{size} vectors of {solver}"
    fit = functools.cache(lambda: Basis.fit(vectors, size, solver))

    def recovered(name: str) -> TaskVector:
        return fit().recover(name)

    def alone() -> Plain:
        found = {name: recovered(name) for name in tasks}
        scores = own_scores(
            work.encoder,
            found,
            work.test(tasks),
            regime=work.settings.regime,
            linear=work.linear,
            autocast=not work.linear,
        )
        error = {name: fit().error(name) for name in tasks}
        return {"mean": scores.mean, "stderr": scores.mean_stderr, "error": error}

    merged = added(given, label, lambda: fit().combine(1.0), about)
    parts = {**work.about(tasks), "vectors": given.tuned.keys, **about, "limit": work.settings.limit}
    single = work.piece(f"each task from {label}", parts, alone)
    parts = {"vectors": given.tuned.keys, **about}
    negations = [
        negated(given, f"without {name} from {label}", name, functools.partial(recovered, name), parts)
        for name in targets_of(work)
    ]
    count = len(negations)
    return {
        "name": solver,
        "size": size,
        **{key: merged[key] for key in ("scale", "mean", "stderr", "normalized", "at_edge")},
        "single_mean": single["mean"],
        "single_stderr": single["stderr"],
        "largest_error": max(single["error"].values()),
        "target_after": sum(row["target_after"]["value"] for row in negations) / count,
        "control_after": sum(row["control_after"]["value"] for row in negations) / count,
        "negation": negations,
    }
