"""`analyze`: one pass over the tensors, shared by all analyses that were asked for."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np

from taskvec.analyze._analysis import AnalysisMethod, get, names
from taskvec.analyze._deltas import Deltas, Piece
from taskvec.analyze._names import depth_of, kind_of
from taskvec.analyze._result import Analysis
from taskvec.checkpoint.layout import Layout, Place
from taskvec.checkpoint.progress import Meter, Progress, unseen
from taskvec.checkpoint.source import TensorSpec
from taskvec.delta import BLOCK
from taskvec.errors import NonFiniteError, ParameterError, SpaceError, UnknownName
from taskvec.methods._parameters import Parameter, Range
from taskvec.vector import TaskVector, check_compatible

Vectors = Mapping[str, TaskVector] | Sequence[TaskVector]
_DENSITY = Parameter("density", float, None, Range(0.0, 1.0), (), per_task=False)


def analyze(
    vectors: Vectors,
    only: str | Sequence[str] | None = None,
    layout: Layout | None = None,
    *,
    merged: TaskVector | None = None,
    density: float | None = None,
    progress: Progress = unseen,
    **parameters: Any,
) -> Analysis:
    """What can be said of task vectors without data: norms, cosines, spectra, overlaps, interference.

    Streams: one matrix and the leading triplets of every task's delta of it are held at a time.

    Args:
        vectors: a mapping name → vector, or a sequence (names "0", "1", …).
        only: the analyses to run, names or "sti,gram"; default: all that so many vectors allow.
        layout: which tensors are matrices, how fused ones are split, what is skipped; default: from the shapes.
        merged: the merged vector that the alignment ratio looks at; default: the sum.
        density: the fraction of min(m, n) singular triplets of each task that subspaces and interference are taken of;
            default: one part in T.
        progress: called with (name of the step, bytes done, bytes in all).
        **parameters: those of the analyses: `norm`, `whiten` (sti), `residual` (sar).

    Returns:
        Tables of rows, a name each.

    Raises:
        UnknownName: no such analysis. ParameterError: no vectors, too few for an analysis that was asked for, a
            parameter out of its range. SchemaError: vectors of different models or bases.
        SpaceError: something that is not a task vector. NonFiniteError: NaN or Inf, naming tensor and task.
    """
    named = _named(vectors)
    chosen = _chosen(only, len(named))
    if density is not None:
        density = _DENSITY.check("analyze", density)
    bound = _bound(chosen, parameters)
    total = functools.reduce(operator.add, named.values()) if merged is None else merged
    _check(named, total, progress)
    run = _Run(named, total, chosen, bound, density=density)
    run.over(layout if layout is not None else Layout.of(run.specs), progress)
    settings = {
        "analyses": [m.name for m in chosen],
        "density": density,
        "merged": "sum" if merged is None else "given",
        **{key: value for each in bound.values() for key, value in each.items()},
    }
    base = next((v.base for v in named.values() if v.base is not None), None)
    return Analysis(
        tasks=tuple(named),
        tables=run.tables(),
        meanings={table: text for m in chosen for table, text in m.tables.items()},
        settings=settings,
        base=base.known() if base is not None else None,
    )


def _named(vectors: Vectors) -> dict[str, TaskVector]:
    named = dict(vectors) if isinstance(vectors, Mapping) else {str(i): v for i, v in enumerate(vectors)}
    if not named:
        raise ParameterError("an analysis needs at least one task vector; it got none.", "give task vectors.")
    for name, vector in named.items():
        if not isinstance(vector, TaskVector):
            raise SpaceError(
                f"input '{name}' of analyze is a {type(vector).__name__}, not a TaskVector.",
                "subtract the base first: tuned - base.",
            )
    return named


def _chosen(only: str | Sequence[str] | None, tasks: int) -> list[AnalysisMethod]:
    if only is None:
        return [m for m in map(get, names()) if m.least <= tasks]
    asked = [n.strip() for n in only.split(",")] if isinstance(only, str) else list(only)
    chosen = [get(n) for n in sorted(set(asked))]
    if not chosen:
        raise ParameterError("`only` names no analysis.", f"known: {', '.join(names())}.")
    for method in chosen:
        if tasks < method.least:
            raise ParameterError(
                f"{method.name} compares task vectors and needs at least {method.least}; it got {tasks}.",
                "give more vectors, or leave it out of `only`.",
            )
    return chosen


def _bound(chosen: Sequence[AnalysisMethod], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    known = {key for method in chosen for key in method.parameters}
    for key in given:
        if key not in known:
            unknown = UnknownName.among(f"no analysis that was asked for has a parameter '{key}'.", key, known)
            raise ParameterError(unknown.fact, unknown.fix)
    return {method.name: method.bind(given) for method in chosen}


def _check(named: Mapping[str, TaskVector], merged: TaskVector, progress: Progress) -> None:
    first = next(iter(named.values()))
    for other in (*named.values(), merged):
        check_compatible(first, other)
    for vector in named.values():
        vector.check(progress)


@final
class _Run:
    """What the analyses found so far, by analysis and tensor."""

    def __init__(
        self,
        named: Mapping[str, TaskVector],
        merged: TaskVector,
        chosen: Sequence[AnalysisMethod],
        bound: Mapping[str, Mapping[str, Any]],
        *,
        density: float | None,
    ) -> None:
        self._named, self._merged, self._chosen, self._bound = named, merged, chosen, bound
        self._density = density
        self._found: dict[str, dict[str, Any]] = {method.name: {} for method in chosen}
        self._tensors: list[dict[str, Any]] = []
        self.specs: dict[str, TensorSpec] = {}
        for vector in named.values():
            for name, spec in vector.specs.items():
                self.specs.setdefault(name, spec)

    def over(self, layout: Layout, progress: Progress) -> None:
        """Every analysis of every tensor, in order."""
        places = [(name, layout[name]) for name in self.specs]
        meter = Meter(progress, "analyzing", sum(place.spec.nbytes for _, place in places))
        for name, place in places:
            if place.role != "skip":
                self._tensor(name, place)
            meter.reach(name, place.spec.nbytes)

    def tables(self) -> dict[str, tuple[dict[str, Any], ...]]:
        """All tables, by name."""
        tables = {"tensors": tuple(self._tensors)}
        for method in self._chosen:
            found = method.finish(self._found[method.name], tuple(self._named))
            tables |= {table: tuple(found.get(table, ())) for table in method.tables}
        return tables

    def _tensor(self, name: str, place: Place) -> None:
        shape = place.spec.shape
        self._note(name, shape, place.role)
        if folds := [m for m in self._chosen if m.on == "entries"]:
            self._fold(folds, name, place.spec.numel)
        pieces: list[Piece | None] = [None]
        if place.split is not None:
            pieces = list(place.split.pieces(shape))
        for piece in pieces if place.role == "matrix" else ():
            deltas = Deltas(name, self._named, self._merged, piece=piece, density=self._density)
            if piece is not None:
                self._note(deltas.title, deltas.shape, place.role)
            for method in self._chosen:
                if method.on == "matrix":
                    self._found[method.name][deltas.title] = method.function(deltas, **self._bound[method.name])

    def _note(self, name: str, shape: tuple[int, ...], role: str) -> None:
        row = {"name": name, "shape": list(shape), "role": role, "depth": depth_of(name), "kind": kind_of(name)}
        self._tensors.append(row)

    def _fold(self, methods: Sequence[AnalysisMethod], name: str, entries: int) -> None:
        for block in self._blocks(name, entries):
            for method in methods:
                statistic = method.function(block, **self._bound[method.name])
                found = self._found[method.name]
                found[name] = found[name] + statistic if name in found else statistic

    def _blocks(self, name: str, entries: int) -> Iterator[np.ndarray[Any, np.dtype[np.float64]]]:
        for start in range(0, max(entries, 1), BLOCK):
            block = np.empty((len(self._named), min(BLOCK, entries - start)))
            for row, (task, vector) in zip(block, self._named.items(), strict=True):
                vector.values(name, start, start + row.size, row)
                if not np.isfinite(row).all():
                    raise NonFiniteError(
                        f"tensor '{name}' has NaN or Inf in '{task}' ({vector.describe()}).",
                        "repair the checkpoint it comes from.",
                    )
            yield block
