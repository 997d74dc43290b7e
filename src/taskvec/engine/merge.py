"""`merge`: a method and its inputs become a lazy `TaskVector` (of displacements) or `Checkpoint` (of points)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final, overload

from taskvec import methods
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.decompositions import Decompositions
from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.source import TensorSpec
from taskvec.delta import AbstractDelta, Factors, rounded
from taskvec.engine.device import CPU
from taskvec.engine.merging import Merging
from taskvec.engine.points import merge_points
from taskvec.errors import ParameterError, SpaceError
from taskvec.methods._method import MergeMethod
from taskvec.methods._over import composed
from taskvec.methods._parameters import Bound, Parameter, PerTensor, Range, plain
from taskvec.vector import TaskVector, check_compatible

if TYPE_CHECKING:
    from taskvec.ops.bits import Floats

Vectors = Mapping[str, TaskVector] | Sequence[TaskVector]
Points = Mapping[str, Checkpoint] | Sequence[Checkpoint]
_SCALE = Parameter("scale", float, 1.0, Range(-float("inf")), (), per_task=False)


@overload
def merge(method: str | MergeMethod, inputs: Vectors, /, **options: Any) -> TaskVector: ...
@overload
def merge(method: str | MergeMethod, inputs: Points, /, **options: Any) -> Checkpoint: ...
def merge(
    method: str | MergeMethod,
    inputs: Vectors | Points,
    /,
    *,
    scale: float | PerTensor | None = None,
    layout: Layout | None = None,
    base: Checkpoint | None = None,
    threads: int | None = None,
    device: str = CPU,
    cache: Decompositions | None = None,
    **parameters: Any,
) -> TaskVector | Checkpoint:
    """The merge of task vectors, or of checkpoints for methods on points, by a registered method; lazy.

    Args:
        method: a registry name, or a `MergeMethod`.
        inputs: a mapping name → input, or a sequence (names "0", "1", …). Their order is part of the input.
        scale: multiplies the merged vector (methods on vectors), or a parameter of the method (passthrough); may
            depend on the tensor.
        layout: the role of each tensor, for methods on matrices; default: decided from names and shapes.
        base: the base checkpoint, for methods on points that use one. A method on vectors or points that is given
            points and a base merges the displacements from the base, and adds the result to it.
        threads: workers of the folds; default: one a processor.
        device: where the method runs, e.g. "cuda": blocks are stacked there and what it makes of them comes back.
            Statistics, and merges that are linear combinations, stay on the CPU. Results agree to within rounding.
        cache: where methods on singular triplets keep decompositions; default: what TASKVEC_DECOMPOSITIONS asks for.
        **parameters: those of the method.

    Returns:
        A TaskVector for task vectors, a Checkpoint for checkpoints.

    Raises:
        UnknownName: no such method. ParameterError: a parameter out of its range, or too few inputs.
        SchemaError: inputs of different models or bases. SpaceError: inputs of the wrong kind for the method.
    """
    chosen = composed(methods.get(method) if isinstance(method, str) else method, parameters)
    named = named_inputs(inputs)
    points = [n for n, x in named.items() if isinstance(x, Checkpoint)]
    _check_kinds(chosen, named, points)
    if scale is not None and "scale" in chosen.parameters:
        parameters, scale = {"scale": scale, **parameters}, None
    bound = chosen.bind(parameters, list(named))
    if points and chosen.space == "either" and base is not None:
        moved: dict[str, TaskVector] = {name: point - base for name, point in named.items()}
        return base + merge(chosen, moved, scale=scale, layout=layout, threads=threads, device=device, **parameters)
    if points:
        if scale is not None:
            raise ParameterError(f"{chosen.name} merges points, which have no scale.", "leave out scale.")
        return merge_points(chosen, named, bound, layout=layout, base=base, threads=threads, device=device)
    factor = _SCALE.resolve(chosen.name, 1.0 if scale is None else scale, list(named))
    first = next(iter(named.values()))
    for other in named.values():
        check_compatible(first, other)
    by_tensor = factor if isinstance(factor, PerTensor) else None
    options: Any = {"scale": by_tensor, "layout": layout, "threads": threads, "device": device, "cache": cache}
    merged = TaskVector(((1.0, Merged(chosen, named, bound, **options)),))
    return merged if by_tensor is not None or factor == 1.0 else factor * merged


def notes_of(merged: TaskVector | Checkpoint) -> dict[str, dict[str, float]]:
    """What methods had to report of the tensors of a merge (or of a base displaced by one) that were read so far.

    By tensor, the largest of each number over the parts of a fused matrix and over the merge and its inputs: directions
    that were "dropped", the "condition" of vectors side by side, pairs of tasks whose deltas are "alike" (a cosine
    beyond ±0.999).
    """
    vector = merged if isinstance(merged, TaskVector) else getattr(merged.source, "vector", None)
    leaves = [leaf for _, leaf in vector.terms] if isinstance(vector, TaskVector) else []
    return _joined(leaf.notes() for leaf in leaves)


def _joined(tables: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for table in tables:
        for name, numbers in table.items():
            known = found.setdefault(name, {})
            known |= {what: max(number, known.get(what, number)) for what, number in numbers.items()}
    return found


def named_inputs(inputs: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """The inputs by name, in order.

    Raises:
        ParameterError: there are none.
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {str(i): v for i, v in enumerate(inputs)}
    if not named:
        raise ParameterError("a merge needs at least one input; it got none.", "give task vectors or checkpoints.")
    return named


def _check_kinds(method: MergeMethod, named: Mapping[str, Any], points: Sequence[str]) -> None:
    for name, given in named.items():
        if not isinstance(given, TaskVector | Checkpoint):
            raise SpaceError(
                f"input '{name}' of {method.name} is a {type(given).__name__}, not a TaskVector or Checkpoint."
            )
        if isinstance(given, TaskVector) and method.space == "point":
            raise SpaceError(
                f"{method.name} merges points, and its input '{name}' is a TaskVector.",
                "give checkpoints (base + vector is one).",
            )
        if isinstance(given, TaskVector) and points:
            raise SpaceError(
                f"{method.name} got inputs of two kinds: '{points[0]}' is a Checkpoint, '{name}' a TaskVector.",
                "give inputs of one kind.",
            )
        if isinstance(given, Checkpoint) and method.space == "vector":
            raise SpaceError(
                f"{method.name} merges task vectors, and its input '{name}' is a Checkpoint.",
                "subtract the base first: tuned - base.",
            )


@final
class _VectorInput:
    """A task vector as an input of the engine."""

    def __init__(self, vector: TaskVector) -> None:
        self._vector, self.specs = vector, vector.specs

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        for c, leaf in self._vector.terms:
            if c != 0.0 and not leaf.is_zero(name):
                leaf.add_to(total, coefficient * c, name, start)

    def read32(self, out: Any, name: str, start: int) -> int:
        leaf = self._vector.single()
        if leaf is None or leaf.is_zero(name):
            return rounded(self, out, name, start)
        return leaf.read32(out, name, start)

    def is_zero(self, name: str) -> bool:
        return self._vector.is_zero(name)

    def factors(self, name: str) -> Factors | None:
        return self._vector.factors(name)

    def describe(self) -> str:
        return self._vector.describe()


@final
class Merged(AbstractDelta):
    """What a method makes of several task vectors, as a leaf; `scale` multiplies it where it depends on the tensor."""

    def __init__(
        self,
        method: MergeMethod,
        vectors: Mapping[str, TaskVector],
        bound: Bound,
        *,
        scale: PerTensor | None = None,
        layout: Layout | None,
        threads: int | None,
        device: str = CPU,
        cache: Decompositions | None = None,
    ) -> None:
        self.vectors, self.scale = dict(vectors), scale
        self._zero: dict[str, bool] = {}
        specs: dict[str, TensorSpec] = {}
        for vector in self.vectors.values():
            for name, spec in vector.specs.items():
                specs.setdefault(name, spec)
        self.specs = {n: s for n, s in specs.items() if layout is None or layout[n].role != "skip"}
        self.base = next((v.base for v in self.vectors.values() if v.base is not None), None)
        skipped = len(self.specs) < len(specs)
        self.partial = skipped or any(leaf.partial for v in self.vectors.values() for _, leaf in v.terms)
        inputs = {n: _VectorInput(v) for n, v in self.vectors.items()}
        options: Any = {"layout": layout, "threads": threads, "device": device, "cache": cache}
        self.merging = Merging(method, inputs, bound, specs=self.specs, **options)

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        self.merging.add_to(total, coefficient * self._scale_at(name), name, start)

    def _scale_at(self, name: str) -> float:
        return 1.0 if self.scale is None else float(self.scale.at(name))

    def factors(self, name: str) -> Factors | None:
        """See the base class: a linear combination of factored vectors is factored, and so is a spectral merge."""
        if self.merging.spectra is not None and name in self.merging.spectra:
            return self.merging.spectra.factors(name)
        if self.merging.method_for(name).weigh is None or any(
            v.factors(name) is None and not v.is_zero(name) for v in self.vectors.values()
        ):
            return None
        weights = self.merging.weights(name)
        if weights is None or weights.ndim > 1:
            return None
        pairs = zip((self._scale_at(name) * weights).tolist(), self.vectors.values(), strict=True)
        terms = [(w * c, leaf) for w, v in pairs for c, leaf in v.terms]
        return TaskVector(tuple(terms)).factors(name)

    def notes(self) -> Mapping[str, Mapping[str, float]]:
        """See the base class: the method's own, and those of the inputs."""
        return _joined([self.merging.notes, *(leaf.notes() for v in self.vectors.values() for _, leaf in v.terms)])

    def is_zero(self, name: str) -> bool:
        """Zero inputs merge to zero under every method that has the law; a scale of 0 makes anything zero."""
        known = self._zero.get(name)
        if known is None:
            known = self._zero[name] = self._merges_to_zero(name)
        return known

    def _merges_to_zero(self, name: str) -> bool:
        if name not in self.specs or self._scale_at(name) == 0.0:
            return True
        lawful = "zero" in self.merging.method_for(name).laws
        return lawful and all(v.is_zero(name) for v in self.vectors.values())

    def blame(self, name: str, start: int, stop: int) -> str | None:
        """See the base class: the first input that holds NaN or Inf."""
        leaves = [leaf for v in self.vectors.values() for c, leaf in v.terms if c != 0.0]
        return next((found for leaf in leaves if (found := leaf.blame(name, start, stop))), None)

    def check(self, progress: Progress = unseen) -> None:
        """See the base class; also runs the folds, so that what they refuse is refused before anything is written."""
        for vector in self.vectors.values():
            vector.check(progress)
        self.merging.fold(progress)

    def hash_inputs(self, name: str) -> None:
        """See the base class."""
        for vector in self.vectors.values():
            for _, leaf in vector.terms:
                leaf.hash_inputs(name)

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        parts = [leaf.inputs() for v in self.vectors.values() for _, leaf in v.terms]
        terms = [[c for c, _ in v.terms] for v in self.vectors.values()]
        known = (*self.merging.identity(), self._scaled(), list(self.vectors), terms)
        return None if any(p is None for p in parts) else (*parts, known)

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        inputs = {
            name: [{"coefficient": c, **leaf.recipe(blank=blank)} for c, leaf in vector.terms]
            for name, vector in self.vectors.items()
        }
        known = {"method": self.merging.method.name, "parameters": self.merging.bound.to_plain(), **self._scaled()}
        return {**known, **self.merging.layout_changes(), "inputs": inputs}

    def _scaled(self) -> dict[str, Any]:
        return {} if self.scale is None else {"scale": plain(self.scale)}

    def describe(self) -> str:
        """See the base class."""
        return f"{self.merging.method.name}({', '.join(self.vectors)})"
