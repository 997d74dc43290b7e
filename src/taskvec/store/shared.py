"""The basis of a store as its manifest keeps it (docs/format.md, section 3.1): plain numbers, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

SHARED = "shared"
SUFFIX = ".tv.safetensors"
Rows = tuple[tuple[float, ...], ...]


@final
@dataclass(frozen=True, slots=True)
class SharedFile:
    """One vector of the basis."""

    hash: str
    nbytes: int
    header: str
    codec: Mapping[str, Any]
    error: float

    @property
    def file(self) -> str:
        """Its path in the store."""
        return f"{SHARED}/{self.hash}{SUFFIX}"

    def table(self) -> dict[str, Any]:
        """As the manifest has it."""
        own = {"hash": self.hash, "bytes": self.nbytes, "header": self.header}
        return {**own, "codec": dict(self.codec), "error": self.error}


@final
@dataclass(frozen=True, slots=True)
class BasisTask:
    """One task: its coefficients, and what it loses."""

    order: int
    coefficients: tuple[float, ...]
    norm: float
    lost: float
    added: bool
    cluster: int | None
    origin: str | None

    @property
    def error(self) -> float:
        """Lost / norm; for a task of norm 0, 0 where nothing is lost, else infinite."""
        return self.lost / self.norm if self.norm else (math.inf if self.lost else 0.0)

    def table(self) -> dict[str, Any]:
        """As the manifest has it."""
        own = {"order": self.order, "coefficients": list(self.coefficients), "norm": self.norm, "lost": self.lost}
        return {**own, "added": self.added, "cluster": self.cluster, "origin": self.origin}


@final
@dataclass(frozen=True, slots=True)
class BasisRecord:
    """Vectors, tasks by name in their order, and matrices; `about` is how it was asked for and what was said of it."""

    vectors: tuple[SharedFile, ...]
    tasks: Mapping[str, BasisTask]
    gram: Rows
    members: Rows
    encoder: Rows | None
    tied: bool
    about: Mapping[str, Any]

    def table(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {
            "vectors": [v.table() for v in self.vectors],
            "tasks": {n: t.table() for n, t in self.tasks.items()},
            "gram": [list(row) for row in self.gram],
            "members": [list(row) for row in self.members],
            "encoder": None if self.encoder is None else [list(row) for row in self.encoder],
            "tied": self.tied,
            **self.about,
        }

    def without(self, name: str) -> BasisRecord | None:
        """With one task less; None where it was the last one."""
        if name not in self.tasks:
            return self
        at = list(self.tasks).index(name)
        tasks = {n: t for n, t in self.tasks.items() if n != name}
        gram = tuple(tuple(x for j, x in enumerate(row) if j != at) for i, row in enumerate(self.gram) if i != at)
        return replace(self, tasks=tasks, gram=gram, encoder=None) if tasks else None


ABOUT = {
    "method": str,
    "size": int | None,
    "normalize": bool,
    "weights": dict,
    "coefficients": dict,
    "options": dict,
    "report": dict,
    "notes": list,
}


def read_basis(table: Any, digest: Any) -> BasisRecord:
    """The record that a manifest's table means; `digest` checks a hash.

    Raises:
        ValueError, KeyError, TypeError: it is not valid.
    """
    vectors = tuple(_file(v, digest) for v in table["vectors"])
    if not vectors or len({v.hash for v in vectors}) > len(vectors):
        raise ValueError("a basis has no vectors")
    named = [(n, _task(n, t, len(vectors), digest)) for n, t in table["tasks"].items()]
    tasks = dict(sorted(named, key=lambda item: item[1].order))
    if not tasks or len({t.order for t in tasks.values()}) < len(tasks):
        raise ValueError("a basis has no tasks, or two of the same order")
    about = {key: table[key] for key in ABOUT}
    for key, kind in ABOUT.items():
        if not isinstance(about[key], kind) or (kind == int | None and isinstance(about[key], bool)):
            raise ValueError(f"the basis has no valid '{key}'")
    encoder = table["encoder"]
    if encoder is not None:
        encoder = tuple(_numbers(row, len(vectors)) for row in _listed(encoder, len(tasks)))
    gram, members = _triangle(table["gram"], len(tasks)), _triangle(table["members"], len(vectors))
    if not isinstance(table["tied"], bool):
        raise ValueError("the basis does not say whether it is tied")
    return BasisRecord(vectors, tasks, gram, members, encoder, table["tied"], about)


def _file(table: Any, digest: Any) -> SharedFile:
    codec, nbytes = table["codec"], table["bytes"]
    if not isinstance(codec, dict) or not isinstance(codec.get("name"), str):
        raise ValueError("a vector of the basis has no codec")
    if type(nbytes) is not int or not 0 <= nbytes < 1 << 63:
        raise ValueError("a vector of the basis has no valid size")
    return SharedFile(digest(table["hash"]), nbytes, digest(table["header"]), codec, _number(table["error"]))


def _task(name: str, table: Any, size: int, digest: Any) -> BasisTask:
    order, cluster, origin = table["order"], table["cluster"], table["origin"]
    if not name or not name.isprintable():
        raise ValueError(f"{name!r} cannot name a vector")
    if type(order) is not int or not 0 <= order < 1 << 63:
        raise ValueError(f"task '{name}' of the basis has no valid order")
    if cluster is not None and (type(cluster) is not int or not 0 <= cluster < size):
        raise ValueError(f"task '{name}' of the basis has no valid cluster")
    norm, lost = _number(table["norm"]), _number(table["lost"])
    if norm < 0.0 or lost < 0.0 or not isinstance(table["added"], bool):
        raise ValueError(f"task '{name}' of the basis has no valid norm and error")
    kept = None if origin is None else digest(origin)
    return BasisTask(order, _numbers(table["coefficients"], size), norm, lost, table["added"], cluster, kept)


def _triangle(rows: Any, count: int) -> Rows:
    return tuple(_numbers(row, i + 1) for i, row in enumerate(_listed(rows, count)))


def _listed(rows: Any, count: int) -> list[Any]:
    if not isinstance(rows, list) or len(rows) != count:
        raise ValueError("a matrix of the basis has the wrong size")
    return rows


def _numbers(row: Any, count: int) -> tuple[float, ...]:
    return tuple(_number(x) for x in _listed(row, count))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a number of the basis is none")
    return float(value)
