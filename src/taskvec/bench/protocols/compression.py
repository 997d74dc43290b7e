"""Stored: each task from its vector as every codec keeps it."""

from __future__ import annotations

import shutil
from typing import Any

from taskvec import evaluate
from taskvec.bench.given import Given
from taskvec.bench.work import Plain


def compression(given: Given) -> Plain:
    """The score of each task from what a codec stored, beside the bytes of the files."""
    work, tasks, rows = given.work, given.work.suite.names(), []
    scratch = work.folder / "cache" / "stored"
    for label, codec in work.settings.codecs.items():

        def compute(label: str = label, codec: Any = codec) -> Any:
            shutil.rmtree(scratch, ignore_errors=True)
            found = evaluate.compression(
                work.encoder,
                given.tuned.vectors,
                {label: codec},
                scratch,
                test=work.test(tasks),
                single=given.test,
                linear=work.linear,
                autocast=not work.linear,
            )
            shutil.rmtree(scratch)
            return found.plain()["compression"][0]

        parts = {**work.about(tasks), "vectors": given.tuned.keys, "codec": codec, "limit": work.settings.limit}
        rows.append(work.piece(f"stored as {label}", parts, compute))
    return {"compression": rows}
