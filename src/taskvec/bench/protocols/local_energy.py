"""Whether the tangent kernel's eigenfunctions that represent a task live on the task's own texts."""

from __future__ import annotations

import torch

from taskvec.bench.given import Given
from taskvec.bench.settings import pairs_of
from taskvec.bench.work import Plain
from taskvec.evaluate import localization


def local_energy(given: Given) -> Plain:
    """Two rows a pair of tasks, from all eigenfunctions on few texts, of one random direction of the features."""
    work, settings, rows = given.work, given.work.settings, []
    texts, seed = settings.energy_limit, given.tuned.seed
    for two in pairs_of(work.suite, settings.pairs):

        def compute(two: tuple[str, str] = two) -> Plain:
            width = work.heads[two[0]].embeddings.shape[1]
            direction = torch.randn(width, 1, generator=torch.Generator().manual_seed(seed))
            vectors = {name: given.tuned.vectors[name] for name in two}
            inputs = work.inputs("test", two, texts)
            return localization(work.encoder, vectors, inputs, count=2 * texts, projection=direction).plain()

        parts = {
            **work.about(two),
            "vectors": {name: given.tuned.keys[name] for name in two},
            "limit": texts,
            "seed": seed,
        }
        found = work.piece(f"local energy of {two[0]} and {two[1]}", parts, compute)
        rows += found["local_energy"]
    return {"texts": texts, "local_energy": rows}
