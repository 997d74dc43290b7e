"""The Gram matrix of task vectors, streamed: block by block, float64 sums in one order, a few megabytes in all.

A block is 65,536 entries of one tensor of every vector. Blocks of a tensor are added in order, tensors by name: the
bits depend on neither threads, nor shards, nor the order of the vectors.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from taskvec.checkpoint.durable import write_durably
from taskvec.checkpoint.output import worker_count
from taskvec.checkpoint.progress import Meter, Progress, unseen
from taskvec.delta import BLOCK, Factors
from taskvec.errors import NonFiniteError, ParameterError, SpaceError, UnknownName
from taskvec.ops.gram import factored_products, products
from taskvec.ops.scratch import scratch
from taskvec.vector import TaskVector, check_compatible, check_same_base

if TYPE_CHECKING:
    from taskvec.ops.bits import Floats

Vectors = Mapping[str, TaskVector] | Sequence[TaskVector]
_RUN = 16  # blocks a job


def gram(vectors: Vectors, *, threads: int | None = None, progress: Progress = unseen) -> Float64[Tensor, "task task"]:
    """The inner products of task vectors, float64 (task, task), in one pass over their files.

    Args:
        vectors: a mapping name → vector, or a sequence. Factored ones are never multiplied out.
        threads: workers; default: one a processor.
        progress: called with (name of the step, bytes done, bytes in all).

    Raises:
        SchemaError: vectors of different models or bases. NonFiniteError: NaN or Inf, naming tensor and vector.
        ParameterError: no vectors.
    """
    return Gram.of(vectors, threads=threads, progress=progress).matrix


@final
@dataclass(frozen=True, eq=False, slots=True)
class Gram:
    """The inner products of named vectors: `matrix` (task, task), and the share of each tensor if it was asked for."""

    names: tuple[str, ...]
    matrix: Float64[Tensor, "task task"]
    per_tensor: Mapping[str, Float64[Tensor, "task task"]] | None = field(default=None)

    @classmethod
    def of(
        cls,
        vectors: Vectors,
        *,
        per_tensor: bool = False,
        threads: int | None = None,
        progress: Progress = unseen,
    ) -> Gram:
        """See `gram`; `per_tensor` keeps the Gram matrix of each tensor, too (their sum is the whole one)."""
        named = named_vectors(vectors)
        shares = dict(_shares(named, 0, worker_count(threads), progress))
        return cls(tuple(named), _total(shares, len(named), len(named)), shares if per_tensor else None)

    def extended(self, name: str, vector: TaskVector, vectors: Vectors, *, threads: int | None = None) -> Gram:
        """With one more vector: its row alone is computed, from it and the `vectors` that are in already.

        Raises:
            ParameterError: the name is taken. UnknownName: `vectors` lacks one that is in. Others: see `gram`.
        """
        return self.joined({name: vector}, vectors, threads=threads)

    def joined(self, new: Mapping[str, TaskVector], vectors: Vectors, *, threads: int | None = None) -> Gram:
        """With several more vectors, in one pass; see `extended`."""
        for name in new:
            if name in self.names:
                raise ParameterError(f"the Gram matrix has a vector named '{name}' already.", "choose another name.")
        before = named_vectors(vectors)
        for known in self.names:
            if known not in before:
                raise UnknownName.among(f"no vector named '{known}' was given.", known, before)
        named = named_vectors({**{n: before[n] for n in self.names}, **new})
        shares = dict(_shares(named, len(self.names), worker_count(threads), unseen))
        rows = _total(shares, len(new), len(named))
        both = None if self.per_tensor is None else self._bordered_shares(shares, len(new))
        return Gram(tuple(named), _bordered(self.matrix, rows), both)

    def _bordered_shares(self, shares: Mapping[str, Tensor], new: int) -> dict[str, Tensor]:
        t, old = len(self.names), self.per_tensor or {}
        zeros, empty = torch.zeros(t, t, dtype=torch.float64), torch.zeros(new, t + new, dtype=torch.float64)
        return {n: _bordered(old.get(n, zeros), shares.get(n, empty)) for n in sorted({*old, *shares})}

    def to_json(self) -> str:
        """Names, matrix and, if kept, the matrices by tensor, as JSON."""
        shares = {n: m.tolist() for n, m in (self.per_tensor or {}).items()}
        return json.dumps({"names": self.names, "matrix": self.matrix.tolist(), "per_tensor": shares}, indent=1)

    def save(self, path: str | Path) -> Path:
        """Write `to_json()` to `path`."""
        write_durably(Path(path), self.to_json() + "\n")
        return Path(path)


def named_vectors(vectors: Vectors) -> dict[str, TaskVector]:
    """The vectors by name, in order, checked to be of one model and (as far as headers show) of one base.

    Raises:
        ParameterError: there are none. SpaceError: something else than a task vector. SchemaError: they do not fit.
    """
    named = dict(vectors) if isinstance(vectors, Mapping) else {str(i): v for i, v in enumerate(vectors)}
    if not named:
        raise ParameterError("no task vectors were given.", "give at least one.")
    for name, vector in named.items():
        if not isinstance(vector, TaskVector):
            raise SpaceError(f"'{name}' is a {type(vector).__name__}, not a TaskVector.", "subtract the base first.")
        vector.check()
    first = next(iter(named.values()))
    for other in named.values():
        check_compatible(first, other)
    return named


def _bordered(matrix: Tensor, rows: Tensor) -> Tensor:
    upper = torch.cat([matrix, rows[:, : len(matrix)].T], 1)
    return torch.cat([upper, rows])


def _total(shares: Mapping[str, Tensor], rows: int, columns: int) -> Tensor:
    total = torch.zeros(rows, columns, dtype=torch.float64)
    for share in shares.values():
        total += share
    if not torch.isfinite(total).all():
        raise NonFiniteError("an inner product of the vectors is beyond float64's range.", "scale the vectors down.")
    return total


def _shares(
    vectors: Mapping[str, TaskVector], first: int, threads: int, progress: Progress
) -> Iterator[tuple[str, Tensor]]:
    """For each tensor, by name, the inner products of the vectors from `first` on with all of them."""
    specs = {name: spec for vector in vectors.values() for name, spec in vector.specs.items()}
    meter = Meter(progress, "reading inner products", len(vectors) * sum(s.nbytes for s in specs.values()))
    waiting: deque[tuple[str, Future[Floats]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            shares: dict[str, Floats] = {}
            for name, future in _ahead(_jobs(vectors, first, pool), waiting, 2 * threads):
                for part in future.result():
                    shares[name] = shares[name] + part if name in shares else part
                if not (waiting and waiting[0][0] == name):
                    meter.reach(name, len(vectors) * specs[name].nbytes)
                    yield name, torch.from_numpy(shares.pop(name))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ahead(
    jobs: Iterator[tuple[str, Future[Floats]]], waiting: deque[tuple[str, Future[Floats]]], most: int
) -> Iterator[tuple[str, Future[Floats]]]:
    """The jobs in order, `most` of them under way."""
    for job in jobs:
        waiting.append(job)
        if len(waiting) > most:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _jobs(
    vectors: Mapping[str, TaskVector], first: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, Future[Floats]]]:
    specs = {name: spec for vector in vectors.values() for name, spec in vector.specs.items()}
    leaves = [leaf for vector in vectors.values() for c, leaf in vector.terms if c != 0.0]
    for name in sorted(specs):
        check_same_base([leaf for leaf in leaves if name in leaf.specs], name)
        tensor = _Tensor(vectors, name, first)
        if not tensor.live or tensor.live[-1] < first:
            continue
        if tensor.factors is not None:
            yield name, pool.submit(tensor.from_factors)
            continue
        for start in range(0, specs[name].numel, _RUN * BLOCK):
            yield name, pool.submit(tensor.run, start, min(start + _RUN * BLOCK, specs[name].numel))


@final
class _Tensor:
    """One tensor of all vectors; `live` are those whose delta is not known to be 0."""

    def __init__(self, vectors: Mapping[str, TaskVector], name: str, first: int) -> None:
        self.name, self._vectors, self._names = name, list(vectors.values()), list(vectors)
        self.live = [i for i, v in enumerate(self._vectors) if name in v.specs and not v.is_zero(name)]
        self._shape = (len(self._vectors) - first, len(self._vectors))
        self._first = first
        self._new = sum(i < first for i in self.live)
        moved = [self._vectors[i] for i in self.live]
        self._wide = any(v.single() is None or v.specs[name].dtype.code == "F64" for v in moved)
        self.factors = self._factors(moved)

    def _factors(self, moved: Sequence[TaskVector]) -> list[Factors] | None:
        """All factors, where there are no other vectors and their products cost less than blocks would."""
        found = [f for v in moved if (f := v.factors(self.name)) is not None]
        if not found or len(found) < len(moved):
            return None
        rank, n = sum(f.left.shape[1] for f in found), found[0].left.shape[0] * found[0].right.shape[1]
        by_factors = rank * rank * (found[0].left.shape[0] + found[0].right.shape[1])
        return found if by_factors <= 2 * n * rank + n * len(found) ** 2 else None

    def _placed(self, small: Floats) -> Floats:
        out = np.zeros(self._shape)
        rows = [i - self._first for i in self.live[self._new :]]
        out[np.ix_(rows, self.live)] = small
        return out

    def from_factors(self) -> Floats:
        """The inner products (1, new, task)."""
        assert self.factors is not None
        for i, factors in zip(self.live, self.factors, strict=True):
            if not all(np.isfinite(f).all() for f in factors):
                self._refuse(i, 0, self._vectors[i].specs[self.name].numel)
        return self._placed(factored_products(self.factors, self._new))[None]

    def run(self, start: int, stop: int) -> Floats:
        """The inner products (block, new, task) of the blocks of one run."""
        return np.stack([self._placed(self._block(at, min(at + BLOCK, stop))) for at in range(start, stop, BLOCK)])

    def _block(self, start: int, stop: int) -> Floats:
        rows = self._rows(start, stop)
        return products(rows) if self._new == 0 else products(rows[self._new :], rows)

    def _rows(self, start: int, stop: int) -> Any:
        """The deltas (live, entries): float32 where that rounds a difference of float32 numbers once, else float64."""
        size = stop - start
        if not self._wide:
            narrow = scratch("gram32", len(self.live) * size, np.float32).reshape(len(self.live), size)
            if not any(self._read32(i, row, start) for i, row in zip(self.live, narrow, strict=True)):
                return narrow
        wide = scratch("gram64", len(self.live) * size, np.float64).reshape(len(self.live), size)
        for i, row in zip(self.live, wide, strict=True):
            self._vectors[i].values(self.name, start, stop, row)
            if not np.isfinite(row).all():
                self._refuse(i, start, stop)
        return wide

    def _read32(self, i: int, out: Any, start: int) -> int:
        leaf = self._vectors[i].single()
        assert leaf is not None
        return leaf.read32(out, self.name, start)

    def _refuse(self, i: int, start: int, stop: int) -> None:
        vector = self._vectors[i]
        found = (leaf.blame(self.name, start, stop) for c, leaf in vector.terms if c != 0.0)
        where = next((f for f in found if f), vector.describe())
        raise NonFiniteError(
            f"tensor '{self.name}' has NaN or Inf in '{self._names[i]}' ({where}).",
            "repair the checkpoint it comes from.",
        )
