"""A basis on its way into a store and back: its vectors as files, its matrices as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from taskvec.basis import Basis
from taskvec.basis.algebra import losses, norms_of, root
from taskvec.basis.state import Asked, State
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.gramian import Gram
from taskvec.store.files import entry_of
from taskvec.store.members import write_combinations
from taskvec.store.shared import SUFFIX, BasisRecord, BasisTask, Rows, SharedFile
from taskvec.vector import TaskVector

_ROUNDING = 2.0**-24  # of an entry that is rounded to float32


@final
@dataclass(frozen=True, slots=True)
class Coding:
    """How the vectors of a basis are stored: a codec with its parameters."""

    codec: str = "dense"
    parameters: Mapping[str, Any] | None = None

    def save(self, vector: TaskVector, path: Path, *, exact: bool, **options: Any) -> None:
        """Write one; what is a sum of float32 numbers stays such where nothing else is asked for."""
        given = dict(self.parameters or {})
        if self.codec == "dense" and not given and not exact:
            given = {"dtype": "F32"}
        vector.save(path, codec=self.codec, force=True, **given, **options)


@final
@dataclass(frozen=True, slots=True)
class Prepared:
    """Files that wait to be given their names, and what the manifest will say of them."""

    paths: Sequence[Path]
    record: BasisRecord


def prepare(
    folder: Path,
    basis: Basis,
    coding: Coding,
    *,
    places: Mapping[str, tuple[int, str | None]],
    vectors: Mapping[str, TaskVector] | None = None,
    threads: int | None = None,
    progress: Progress = unseen,
) -> Prepared:
    """The vectors of a basis as files in `folder`; `places` are the order and the origin of its tasks.

    What the codec loses of each vector is measured on the files, and added to what the tasks lose; where the tasks'
    own `vectors` are at hand and a codec lost something, each task's error is measured instead.
    """
    members = basis.vectors()
    taken = all(v.single() is not None for v in members)  # the tasks themselves, or merges: nothing to add up
    staged = members if taken else _staged(basis, folder / "combinations.safetensors", threads, progress)
    paths, files, gaps, stored = [], [], [], {}
    for m, vector in enumerate(staged):
        path = folder / f"{m}{SUFFIX}"
        leaf = vector.single()
        exact = leaf is not None and leaf.exact
        coding.save(vector, path, exact=exact, threads=threads, progress=progress)
        kept = TaskVector.open(path)
        paths.append(path)
        entry = entry_of(path)
        files.append(SharedFile(entry.hash, entry.nbytes, entry.header, entry.codec, entry.error))
        rounding = 0.0 if taken else _ROUNDING * float(basis.state.members[m, m].clamp(min=0.0).sqrt())
        gaps.append(rounding + _apart(kept, vector))
        stored[str(m)] = kept
    own = Gram.of(stored, threads=threads).matrix
    apart = torch.tensor(gaps, dtype=torch.float64)
    state = replace(basis.state, members=own, lost=basis.state.lost + basis.state.decoder.abs().T @ apart)
    if vectors is not None and bool((apart > 4.0 * _ROUNDING * norms_of(own)).any()):
        state = replace(state, lost=torch.minimum(state.lost, _measured(state, vectors, stored, threads)))
    return Prepared(paths, record_of(state, basis.asked, files, places))


def _measured(
    state: State, vectors: Mapping[str, TaskVector], stored: Mapping[str, TaskVector], threads: int | None
) -> Tensor:
    """‖recovered − τ‖ from the inner products of tasks and files, and what the rounding of those may hide."""
    mark = "#" * (1 + max(map(len, state.names)))  # no task's name begins so
    others = {mark + m: vector for m, vector in stored.items()}
    whole = Gram(state.names, state.gram).joined(others, vectors, threads=threads).matrix
    same, t = torch.eye(len(whole), dtype=torch.float64), len(state.names)
    return losses(root(whole), same[:, t:] @ state.decoder, same[:, :t]) + 4.0 * _ROUNDING * state.norms


def _apart(kept: TaskVector, vector: TaskVector) -> float:
    """‖stored − vector‖; 0 without a look where the file restores every bit."""
    leaf = kept.single()
    return 0.0 if leaf is not None and leaf.exact else (kept.rebased() - vector.rebased()).norm()


def _staged(basis: Basis, path: Path, threads: int | None, progress: Progress) -> list[TaskVector]:
    """All combinations in one pass over the leaves that they are made of."""
    leaves = list({id(leaf): leaf for v in basis.vectors() for _, leaf in v.terms}.values())
    at = {id(leaf): i for i, leaf in enumerate(leaves)}
    mix = torch.zeros(len(leaves), basis.size, dtype=torch.float64)
    for m, vector in enumerate(basis.vectors()):
        for c, leaf in vector.terms:
            mix[at[id(leaf)], m] += c
    vectors = {str(i): TaskVector(((1.0, leaf),)) for i, leaf in enumerate(leaves)}
    about = {"method": basis.asked.method, "size": basis.size, "tasks": list(basis.names)}
    return write_combinations(vectors, mix.numpy(), path, about=about, threads=threads, progress=progress)


def record_of(
    state: State, asked: Asked, files: Sequence[SharedFile], places: Mapping[str, tuple[int, str | None]]
) -> BasisRecord:
    """The record of a basis whose vectors lie in `files`."""
    order = sorted(range(len(state.names)), key=lambda j: places[state.names[j]][0])
    tasks = {}
    for j in order:
        name = state.names[j]
        place, origin = places[name]
        cluster = None if state.labels is None else state.labels[j]
        coefficients = tuple(state.decoder[:, j].tolist())
        added = name in state.added
        tasks[name] = BasisTask(
            place, coefficients, float(state.norms[j]), float(state.lost[j]), added, cluster, origin
        )
    encoder = None if state.encoder is None else tuple(map(tuple, state.encoder[order].tolist()))
    gram = _rows(state.gram[order][:, order])
    about = {
        "method": asked.method,
        "size": asked.size,
        "normalize": asked.normalize,
        "weights": dict(asked.weights),
        "coefficients": dict(asked.coefficients),
        "options": {k: v if isinstance(v, str | int | float | None) else str(v) for k, v in asked.options.items()},
        "report": dict(state.report),
        "notes": list(state.notes),
    }
    return BasisRecord(tuple(files), tasks, gram, _rows(state.members), encoder, state.tied, about)


def basis_of(record: BasisRecord, members: Sequence[TaskVector]) -> Basis:
    """The basis that a record means, with its vectors."""
    tasks = record.tasks.values()
    labels = [t.cluster for t in tasks]
    state = State(
        tuple(record.tasks),
        _vector([t.norm for t in tasks]),
        _vector([t.lost for t in tasks]),
        _square(record.gram),
        _square(record.members),
        _vector([list(t.coefficients) for t in tasks]).T.contiguous(),
        None if record.encoder is None else _vector([list(row) for row in record.encoder]),
        None if None in labels else tuple(k for k in labels if k is not None),
        tuple(n for n, t in record.tasks.items() if t.added),
        record.tied,
        record.about["report"],
        tuple(record.about["notes"]),
    )
    about = record.about
    asked = Asked(
        about["method"],
        about["size"],
        about["normalize"],
        about["weights"],
        about["coefficients"],
        about["options"],
    )
    return Basis(tuple(members), state, asked)


def _rows(matrix: Tensor) -> Rows:
    return tuple(tuple(row[: i + 1]) for i, row in enumerate(matrix.tolist()))


def _square(rows: Rows) -> Tensor:
    out = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, row in enumerate(rows):
        out[i, : i + 1] = out[: i + 1, i] = _vector(list(row))
    return out


def _vector(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
