"""Maps of the disentanglement error, for the first pairs of tasks."""

from __future__ import annotations

from taskvec import evaluate
from taskvec.bench.given import Given
from taskvec.bench.settings import pairs_of
from taskvec.bench.work import Plain


def disentanglement(given: Given) -> list[Plain]:
    """ξ over grid × grid, on few texts."""
    work, settings, found = given.work, given.work.settings, []
    for two in pairs_of(work.suite, settings.pairs):

        def compute(two: tuple[str, str] = two) -> Plain:
            return evaluate.disentanglement(
                work.encoder,
                {name: given.tuned.vectors[name] for name in two},
                work.inputs("test", two, settings.map_limit),
                settings.grid,
                regime="linear" if work.linear else "standard",
                autocast=not work.linear,
            ).plain()

        parts = {
            **work.about(two),
            "vectors": {name: given.tuned.keys[name] for name in two},
            "grid": settings.grid,
            "limit": settings.map_limit,
        }
        found.append(work.piece(f"disentanglement of {two[0]} and {two[1]}", parts, compute))
    return found
