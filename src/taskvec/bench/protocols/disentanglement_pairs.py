"""The disentanglement error of every two tasks, where both vectors are as they were trained."""

from __future__ import annotations

from taskvec import evaluate
from taskvec.bench.given import Given
from taskvec.bench.work import Plain

AS_TRAINED = (1.0,)


def disentanglement_pairs(given: Given) -> Plain:
    """ξ(1, 1) of all pairs.

    Raises:
        ParameterError: a suite of one task.
    """
    work, tasks, limit = given.work, given.work.suite.names(), given.work.settings.map_limit

    def compute() -> Plain:
        return evaluate.disentanglement_pairs(
            work.encoder,
            given.tuned.vectors,
            work.inputs("test", tasks, limit),
            AS_TRAINED,
            regime="linear" if work.linear else "standard",
            autocast=not work.linear,
        ).plain()

    parts = {**work.about(tasks), "vectors": given.tuned.keys, "grid": AS_TRAINED, "limit": limit}
    found: Plain = work.piece("disentanglement of all pairs", parts, compute)
    return {**{k: v for k, v in found.items() if k != "pairs"}, "disentanglement_pairs": found["pairs"]}
