"""Out of distribution: what the other tasks' vectors are worth to a task of which few examples are known."""

from __future__ import annotations

from collections.abc import Mapping

from taskvec import evaluate
from taskvec.basis import Basis
from taskvec.bench.given import Given
from taskvec.bench.settings import basis_sizes
from taskvec.bench.steps import targets_of
from taskvec.bench.work import Plain
from taskvec.errors import ParameterError
from taskvec.vector import TaskVector


def few_shot(given: Given) -> Plain:
    """Each target in turn held out; coefficients of all other vectors, and of bases of them, found on few examples.

    Raises:
        ParameterError: a suite of one task.
    """
    work, settings, rows = given.work, given.work.settings, []
    if len(work.suite.tasks) < 2:
        raise ParameterError("a task can be held out from others only.", "give the suite another task.")
    for target in targets_of(work):
        others = [name for name in work.suite.names() if name != target]
        for size in (len(others), *basis_sizes(len(others))):

            def compute(target: str = target, others: list[str] = others, size: int = size) -> Plain:
                library = _library({name: given.tuned.vectors[name] for name in others}, size, settings.bases[0])
                return evaluate.few_shot(
                    work.encoder,
                    library,
                    work.suite,
                    target,
                    heads=work.heads,
                    shots=settings.shots,
                    sweeps=1,
                    seed=given.tuned.seed,
                    limit=settings.map_limit,
                    autocast=True,
                ).plain()

            parts = {
                **work.about(work.suite.names()),
                "vectors": {name: given.tuned.keys[name] for name in others},
                "target": target,
                "basis": [settings.bases[0], size],
                "shots": settings.shots,
                "seed": given.tuned.seed,
                "limit": settings.map_limit,
            }
            found = work.piece(f"{target} from few examples and {size} vectors of others", parts, compute)
            rows.append({"vectors": size, **found})
    return {"few_shot": rows}


def _library(vectors: Mapping[str, TaskVector], size: int, solver: str) -> Mapping[str, TaskVector]:
    """All of them, or a basis of them whose vectors have the mean norm of theirs."""
    if size == len(vectors):
        return vectors
    named = Basis.fit(vectors, size, solver).named()
    length = sum(vector.norm() for vector in vectors.values()) / len(vectors)
    return {name: (length / vector.norm()) * vector for name, vector in named.items() if vector.norm() > 0}
