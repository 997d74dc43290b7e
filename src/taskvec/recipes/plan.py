"""`Plan`: what a recipe would do, tensor by tensor, without reading one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.adapters.lora import LoraDelta
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.durable import replace_durably
from taskvec.checkpoint.save import check_destination
from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._file import FileDelta
from taskvec.delta import AbstractDelta, Difference
from taskvec.edited import EditedSource
from taskvec.methods._describe import coefficients_of, is_linear, unit_of
from taskvec.methods._method import MergeMethod
from taskvec.methods._parameters import PerTensor
from taskvec.recipes.build import Prepared, prepare
from taskvec.recipes.costs import Acting, Work, assumptions, peak_bytes, seconds
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    from taskvec.recipes.recipe import Recipe

COPY = "copy"  # what is done with tensors that do not move


@final
@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the result: its spec, role, the method that acts, its parameters, and the factors of the inputs.

    `parameters` has one number, or one a task by name; `coefficients`, where the method is a linear combination with
    coefficients known now, is what each input is multiplied with in the end (scale included), else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    method: str
    parameters: Mapping[str, Any]
    coefficients: Mapping[str, float] | None


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe would do. Bytes are those of files; `seconds` is None where it is not predicted.

    `passes` counts how often the inputs are read (folds and the merge), `bytes_in` each file once, `hashed` the bytes
    read once more because a fingerprint is not in the cache, `peak` the anonymous memory of the process at its peak.
    """

    recipe: Mapping[str, Any]
    method: str
    tasks: tuple[str, ...]
    tensors: tuple[PlannedTensor, ...]
    folds: int
    passes: int
    bytes_in: int
    bytes_out: int
    hashed: int
    threads: int
    peak: int
    seconds: float | None
    assumptions: Mapping[str, str]
    unchecked: tuple[str, ...]

    def to_json(self) -> str:
        """The whole plan as JSON."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        table["tensors"] = [{f.name: getattr(t, f.name) for f in fields(t)} for t in self.tensors]
        return json.dumps(table, indent=1, ensure_ascii=False, default=dict)

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON."""
        file = Path(path)
        replace_durably(file, self.to_json() + "\n")
        return file


def plan_of(recipe: Recipe, *, output: str | Path | None, force: bool, threads: int | None) -> Plan:
    """The plan of a recipe; see `Recipe.plan`."""
    prepared = prepare(recipe, threads=threads, force=force)
    workers = threads or os.cpu_count() or 1
    specs = dict(_output_specs(prepared))
    nbytes = sum(s.nbytes for s in specs.values())
    if output is not None:
        source = prepared.checkpoint.source
        check_destination(source, output, force=force, shard_size=recipe.shard_size, nbytes=nbytes)
    acting = {name: _acting(prepared, name) for name in specs}
    hashed = sum(sum(s.nbytes for s in c.specs.values()) for c in _points(prepared) if c.fingerprints.known() is None)
    folds = prepared.method.folds_for(prepared.bound)
    tensors = [_work(prepared, specs[n], m, n) for n, m in acting.items()]
    work = Work(tensors, folds, len(prepared.tasks), workers, hashed)
    return Plan(
        recipe=recipe.to_dict(),
        method=prepared.method.name,
        tasks=tuple(prepared.tasks),
        tensors=tuple(_planned(prepared, n, specs[n], acting[n]) for n in specs),
        folds=len(folds),
        passes=len(folds) + 1,
        bytes_in=_bytes_in(prepared),
        bytes_out=nbytes,
        hashed=hashed,
        threads=workers,
        peak=peak_bytes(work),
        seconds=seconds(work),
        assumptions=assumptions(work),
        unchecked=tuple(_unchecked(prepared)),
    )


def _output_specs(prepared: Prepared) -> Iterator[tuple[str, TensorSpec]]:
    for name, spec in prepared.checkpoint.specs.items():
        changed = prepared.dtype is not None and spec.dtype.moves
        yield name, TensorSpec(spec.shape, prepared.dtype) if changed and prepared.dtype is not None else spec


def _acting(prepared: Prepared, name: str) -> MergeMethod | None:
    """The method that acts on a tensor; None: it is copied."""
    place = prepared.layout[name]
    source = prepared.checkpoint.source
    if place.role == "skip" or (isinstance(source, EditedSource) and source.vector.is_zero(name)):
        return None
    return prepared.method.acting(place, len(prepared.tasks))


def _parameters(prepared: Prepared, method: MergeMethod | None, name: str) -> dict[str, Any]:
    if method is None:
        return {}
    bound = prepared.bound
    return (bound if method is prepared.method else method.bind(bound.only(method.parameters), prepared.tasks)).at(name)


def _work(prepared: Prepared, spec: TensorSpec, method: MergeMethod | None, name: str) -> Acting:
    if method is None:
        return Acting(spec, None, "element", linear=True)
    count, given = len(prepared.tasks), _parameters(prepared, method, name)
    return Acting(spec, method, unit_of(method, count, given), linear=is_linear(method, count, given))


def _planned(prepared: Prepared, name: str, spec: TensorSpec, method: MergeMethod | None) -> PlannedTensor:
    bound = _parameters(prepared, method, name)
    return PlannedTensor(
        name=name,
        shape=spec.shape,
        dtype=str(spec.dtype),
        role=prepared.layout[name].role,
        method=COPY if method is None else method.name,
        parameters={k: _named(v, prepared.tasks) for k, v in bound.items()},
        coefficients=_coefficients(prepared, method, name, bound),
    )


def _named(value: Any, tasks: list[str]) -> Any:
    return dict(zip(tasks, value, strict=True)) if isinstance(value, tuple) else value


def _coefficients(
    prepared: Prepared, method: MergeMethod | None, name: str, bound: Mapping[str, Any]
) -> dict[str, float] | None:
    found = None if method is None else coefficients_of(method, len(prepared.tasks), bound)
    if found is None:
        return None
    given = 1.0 if prepared.scale is None or prepared.points else prepared.scale
    scale = float(given.at(name) if isinstance(given, PerTensor) else given)
    return {t: scale * c for t, c in zip(prepared.tasks, found, strict=True)}


def _leaves(prepared: Prepared) -> Iterator[AbstractDelta]:
    for given in prepared.inputs.values():
        vector = given if isinstance(given, TaskVector) else None
        if isinstance(given, Checkpoint) and isinstance(given.source, EditedSource):
            vector = given.source.vector
        for _, leaf in vector.terms if vector is not None else ():
            yield leaf


def _points(prepared: Prepared) -> list[Checkpoint]:
    """Every model on disk that is read, once each."""
    found = [prepared.base] if prepared.base is not None else []
    found += [c for c in prepared.inputs.values() if isinstance(c, Checkpoint)]
    found += [leaf.tuned for leaf in _leaves(prepared) if isinstance(leaf, Difference)]
    on_disk = [c for c in found if c.source.home is not None and not isinstance(c.source, EditedSource)]
    return list({id(c): c for c in on_disk}.values())


def _bytes_in(prepared: Prepared) -> int:
    models = sum(s.nbytes for c in _points(prepared) for s in c.specs.values())
    files = {f.path for leaf in _leaves(prepared) if isinstance(leaf, FileDelta) for f in leaf.files}
    adapters = sum(leaf.nbytes for leaf in _leaves(prepared) if isinstance(leaf, LoraDelta))
    return models + sum(f.stat().st_size for f in files) + adapters


def _unchecked(prepared: Prepared) -> Iterator[str]:
    base = prepared.base
    recorded = [leaf for leaf in _leaves(prepared) if leaf.base is not None and not isinstance(leaf, Difference)]
    if base is not None and recorded and base.fingerprints.known() is None:
        yield "whether the vectors were cut from this base: its fingerprint is not in the cache"
    if prepared.recipe.transforms:
        yield "what the transforms take: memory and time are those of the merge"
    yield "NaN and Inf in the inputs: found while reading"
    if any(not s.dtype.moves for s in prepared.checkpoint.specs.values()):
        yield "whether tensors that cannot move are equal in all inputs: found while reading"
