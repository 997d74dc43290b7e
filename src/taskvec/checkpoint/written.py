"""What is known of a part that is on the disk, and the same as plain data for a journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from taskvec.checkpoint.source import TensorSpec
from taskvec.ops.dtypes import dtype_of


@final
@dataclass(frozen=True, slots=True)
class Written:
    """A part that is on the disk: where it lies in the data of its file, and the hash of its bytes."""

    key: str
    spec: TensorSpec
    begin: int
    end: int
    hash: str


def written_to_json(parts: Sequence[Written]) -> list[list[Any]]:
    """Parts as plain data, for the journal."""
    return [[w.key, w.spec.dtype.code, list(w.spec.shape), w.begin, w.end, w.hash] for w in parts]


def written_from_json(rows: Sequence[Sequence[Any]]) -> list[Written]:
    """The inverse of `written_to_json`."""
    return [Written(k, TensorSpec(tuple(shape), dtype_of(code)), b, e, h) for k, code, shape, b, e, h in rows]
