"""What can be said of the vectors without data: cosines, interference, energy of the singular values."""

from __future__ import annotations

import json

from taskvec import __version__, analyze
from taskvec.bench.given import Given
from taskvec.bench.work import Plain

ANALYSES = ("gram", "sti", "energy")  # those whose tables are short


def analysis(given: Given) -> Plain:
    """The tables of `taskvec analyze`."""
    vectors = given.tuned.vectors
    chosen = [name for name in ANALYSES if analyze.get(name).least <= len(vectors)]

    def compute() -> Plain:
        found = analyze.analyze(vectors, chosen)
        return {**json.loads(found.to_json()), "meanings": dict(found.meanings)}

    parts = {"taskvec": __version__, "vectors": given.tuned.keys, "analyses": chosen}
    plain: Plain = given.work.piece("analyses of the vectors", parts, compute)
    return plain
