"""What a store says of itself: its size beside dense storage, and the outcome of a check."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from taskvec.checkpoint.durable import write_durably


@final
@dataclass(frozen=True, slots=True)
class VectorSize:
    """The bytes of one vector; `of_float32` and `of_bfloat16` are its parts of one dense vector of the same model."""

    name: str
    codec: str
    bytes: int
    error: float
    of_float32: float
    of_bfloat16: float


@final
@dataclass(frozen=True, slots=True)
class StoreSize:
    """Bytes a task and shared, beside a dense vector of the same model in float32 and bfloat16 (moved tensors only)."""

    vectors: tuple[VectorSize, ...]
    shared: int
    dense_float32: int
    dense_bfloat16: int

    @property
    def total(self) -> int:
        """All bytes of the store."""
        return self.shared + sum(v.bytes for v in self.vectors)

    def to_json(self) -> str:
        """The report as JSON: the table `vectors`, and totals."""
        totals = {"shared": self.shared, "total": self.total}
        dense = {"dense_float32": self.dense_float32, "dense_bfloat16": self.dense_bfloat16}
        rows = [{**dataclasses.asdict(v), "error": v.error if math.isfinite(v.error) else None} for v in self.vectors]
        return _json({"vectors": rows, **totals, **dense})

    def save(self, path: str | Path) -> Path:
        """Write `to_json()` to `path`."""
        return _save(self.to_json(), path)


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a vector; `tensor` and `part` are empty where it is not one part that is damaged."""

    name: str
    file: str
    tensor: str
    part: str
    message: str


@final
@dataclass(frozen=True, slots=True)
class StoreCheck:
    """The outcome of `Store.verify`: the vectors that are as they were added, the problems of the others.

    `leftovers` are files that the manifest does not name: what a killed process left, or one that is at work just
    now. They are ignored by readers; the next writer removes those that are dead.
    """

    intact: tuple[str, ...]
    problems: tuple[Problem, ...]
    leftovers: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong (leftovers are not)."""
        return not self.problems

    def to_json(self) -> str:
        """The report as JSON: `ok`, the table `problems`, and the two lists."""
        lists = {"intact": list(self.intact), "leftovers": list(self.leftovers)}
        return _json({"ok": self.ok, "problems": [dataclasses.asdict(p) for p in self.problems], **lists})

    def save(self, path: str | Path) -> Path:
        """Write `to_json()` to `path`."""
        return _save(self.to_json(), path)


def _json(table: dict[str, Any]) -> str:
    return json.dumps(table, indent=2, ensure_ascii=False)


def _save(text: str, path: str | Path) -> Path:
    write_durably(Path(path), text + "\n")
    return Path(path)
