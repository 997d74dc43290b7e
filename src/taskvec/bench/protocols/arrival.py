"""Online arrival: tasks come one by one, and after each, what has come is merged and scored."""

from __future__ import annotations

import functools

from taskvec import evaluate
from taskvec.bench.given import Given
from taskvec.bench.work import Plain
from taskvec.engine.merge import merge


def arrival(given: Given) -> Plain:
    """A row an arrival and method, on the tasks so far, on few texts."""
    work, settings, tasks, rows = given.work, given.work.settings, given.work.suite.names(), []
    limit = min(settings.limit, settings.map_limit)
    for method in settings.arrivals:

        def compute(method: str = method) -> list[Plain]:
            test = work.inputs("test", tasks, limit)
            single = evaluate.own_scores(
                work.encoder,
                given.tuned.vectors,
                test,
                regime=settings.regime,
                linear=work.linear,
                autocast=not work.linear,
            )
            found: list[Plain] = evaluate.arrival(
                work.encoder,
                given.tuned.vectors,
                functools.partial(merge, method),
                validation=work.val(tasks),
                test=test,
                single_validation=given.val,
                single_test=single,
                scales=settings.scales,
                linear=work.linear,
                autocast=not work.linear,
            ).plain()["arrival"]
            return found

        parts = {
            **work.about(tasks),
            "order": list(tasks),
            "vectors": given.tuned.keys,
            "method": method,
            "scales": settings.scales,
            "limit": limit,
            "validation": settings.chosen_on,
        }
        found = work.piece(f"arrivals, merged by {method}", parts, compute)
        rows += [{"name": method, **row} for row in found]
    return {"arrival": rows}
