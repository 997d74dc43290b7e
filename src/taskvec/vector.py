"""`TaskVector`: a displacement, lazy: a linear combination of leaves. `base + vector` is an edited `Checkpoint`."""

from __future__ import annotations

import decimal
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.fingerprint import BaseIdentity
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.source import TensorSpec
from taskvec.delta import BLOCK, AbstractDelta, Factors, Rebased, TensorDelta
from taskvec.errors import NonFiniteError, ParameterError, SchemaError, SpaceError, UnknownName

if TYPE_CHECKING:
    import torch

    from taskvec.ops.bits import Floats

Term = tuple[float, AbstractDelta]


@final
class TaskVector:
    """A displacement of a model's floating-point tensors: `tuned - base`, or any linear combination of such.

    Lazy: `+`, `-`, scalar `*` and `/` and unary minus build a list of (coefficient, leaf) pairs; the coefficients of
    one leaf are added up, so (a + b) - b is exactly a. Values are summed in float64, in the order written. A leaf
    whose coefficient is 0 is never read, but its names, shapes and base still have to fit.
    """

    __slots__ = ("specs", "terms")

    # Filled by the codecs room.
    reader: ClassVar[Callable[[str | Path, Checkpoint | None], TaskVector]]
    writer: ClassVar[Callable[..., Path]]

    def __init__(self, terms: tuple[Term, ...]) -> None:
        self.terms = _collect(terms)
        self.specs: Mapping[str, TensorSpec] = _common_specs(self.terms)

    @classmethod
    def open(cls, path: str | Path, *, base: Checkpoint | None = None) -> TaskVector:
        """Open a `*.tv.safetensors` file, a folder of them, or a LoRA adapter (folder or hub id); reads headers only.

        `base` is needed by adapters that carry whole tensors (biases, modules_to_save) or whose names must be matched.

        Raises:
            FormatError: not a task vector, or a damaged one.
        """
        return cls.reader(path, base)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], *, base: Checkpoint | None = None) -> TaskVector:
        """The task vector of deltas in memory; names that are left out do not move."""
        return cls(((1.0, TensorDelta(tensors, base.fingerprints if base else None)),))

    def names(self) -> list[str]:
        """The names of the tensors that may move."""
        return list(self.specs)

    @property
    def base(self) -> BaseIdentity | None:
        """What is known of the point this vector was cut from; None when no leaf recorded it."""
        return next((leaf.base for _, leaf in self.terms if leaf.base is not None), None)

    @property
    def base_fingerprint(self) -> str | None:
        """The base's fingerprint (may read the base once); None when no leaf recorded it."""
        return self.base.whole() if self.base is not None else None

    def single(self) -> AbstractDelta | None:
        """The leaf, when this vector is exactly one leaf taken once."""
        live = [term for term in self.terms if term[0] != 0.0]
        return live[0][1] if len(live) == 1 and live[0][0] == 1.0 else None

    def is_zero(self, name: str) -> bool:
        """Whether the delta of `name` is known to be 0 everywhere without reading it."""
        return all(c == 0.0 or leaf.is_zero(name) for c, leaf in self.terms)

    def values(self, name: str, start: int, stop: int, out: Floats | None = None) -> Floats:
        """Entries [start, stop) of the flattened delta of `name`, as float64, not checked for NaN."""
        import numpy as np

        if out is None:
            out = np.empty(stop - start)
        out.fill(0.0)
        for coefficient, leaf in self.terms:
            if coefficient != 0.0 and not leaf.is_zero(name):
                leaf.add_to(out, coefficient, name, start)
        return out

    def factors(self, name: str) -> Factors | None:
        """The delta of `name` as left @ right, float64, when every leaf keeps it so: the factors side by side."""
        import numpy as np

        found = [(c, leaf.factors(name)) for c, leaf in self.terms if c != 0.0 and not leaf.is_zero(name)]
        kept = [(c, f) for c, f in found if f is not None]
        if not kept or len(kept) < len(found):
            return None
        return Factors(np.hstack([c * f.left for c, f in kept]), np.vstack([f.right for _, f in kept]))

    def __getitem__(self, name: str) -> torch.Tensor:
        """The delta of `name` as a float32 tensor.

        Raises:
            UnknownName: this vector does not move `name`.
            NonFiniteError: NaN or Inf in it, or a value beyond float32's range.
        """
        import numpy as np
        import torch

        spec = self._spec(name)
        out = np.empty(spec.numel, np.float32)
        with np.errstate(over="ignore"):
            for start in range(0, spec.numel, BLOCK):
                out[start : start + BLOCK] = self.values(name, start, min(start + BLOCK, spec.numel))
        if not np.isfinite(out).all():
            raise NonFiniteError(
                f"the delta of tensor '{name}' in {self.describe()} is not finite in float32.",
                "look for NaN or Inf in the inputs; .values() gives float64.",
            )
        return torch.from_numpy(out).reshape(spec.shape)

    def dot(self, other: TaskVector) -> float:
        """The inner product over all tensors, in float64: blocks of 65,536 entries, their sums added exactly.

        The order of the tensors and how they are spread over files make no difference.

        Raises:
            SpaceError: `other` is not a task vector. SchemaError: it is of another model or base.
            NonFiniteError: NaN or Inf in it, or a result beyond float64's range.
        """
        if not isinstance(other, TaskVector):
            raise SpaceError(f"dot of a TaskVector with {type(other).__name__} is not defined.", "give a TaskVector.")
        check_compatible(self, other)
        try:
            total = math.fsum(self._block_products(other))
        except (OverflowError, ValueError):  # finite sums that grow too large; Inf - Inf
            total = math.nan
        if not math.isfinite(total):
            raise NonFiniteError(
                f"the inner product of {self.describe()} and {other.describe()} is not finite.",
                "look for NaN, Inf or values beyond 1e150 in the inputs.",
            )
        return total

    def _block_products(self, other: TaskVector) -> Iterator[float]:
        import numpy as np

        for name, spec in self.specs.items():
            if name not in other.specs or self.is_zero(name) or other.is_zero(name):
                continue
            for start in range(0, spec.numel, BLOCK):
                mine = self.values(name, start, min(start + BLOCK, spec.numel))
                theirs = mine if other is self else other.values(name, start, start + mine.size)
                with np.errstate(over="ignore", invalid="ignore"):
                    yield float(np.add.reduce(mine * theirs))

    def norm(self) -> float:
        """The Euclidean norm over all tensors, in float64.

        Raises:
            NonFiniteError: NaN or Inf in it, or a square beyond float64's range.
        """
        return math.sqrt(self.dot(self))

    def save(self, path: str | Path, *, codec: str = "dense", **options: Any) -> Path:
        """Write this vector to `path`; `codec` and its parameters decide the size (default: dense, exact).

        Raises:
            DestinationError: `path` exists (and not force), or does not fit on the disk.
            UnknownName: no such codec. ParameterError: a parameter of the codec out of its range.
        """
        return TaskVector.writer(self, Path(path), codec=codec, **options)

    def rebased(self) -> TaskVector:
        """The same displacement with its base forgotten, to be applied to another base on purpose."""
        return TaskVector(tuple((c, Rebased(leaf)) for c, leaf in self.terms))

    def check(self, progress: Progress = unseen) -> None:
        """Refuse what the headers cannot show; what takes long says how far it is.

        Raises:
            SchemaError: e.g. integer tensors of the tuned model that differ from the base's.
        """
        for _, leaf in self.terms:
            leaf.check(progress)

    def describe(self) -> str:
        """What to call this vector in a message."""
        live = [term for term in self.terms if term[0] != 0.0]
        parts = [leaf.describe() if c == 1.0 else f"{c:g} * ({leaf.describe()})" for c, leaf in live]
        return " + ".join(parts) if parts else "the zero vector"

    def _spec(self, name: str) -> TensorSpec:
        if name not in self.specs:
            raise UnknownName.among(f"{self.describe()} does not move a tensor named '{name}'.", name, self.specs)
        return self.specs[name]

    def __add__(self, other: object) -> TaskVector:
        if type(other) is int and other == 0:  # the start of sum()
            return self
        if not isinstance(other, TaskVector):
            raise SpaceError(
                f"TaskVector + {type(other).__name__} is not defined.",
                "write base + vector (the point first), or add two task vectors.",
            )
        check_compatible(self, other)
        return TaskVector(self.terms + other.terms)

    __radd__ = __add__

    def __neg__(self) -> TaskVector:
        return TaskVector(tuple((-c, leaf) for c, leaf in self.terms))

    def __sub__(self, other: object) -> TaskVector:
        if not isinstance(other, TaskVector):
            raise SpaceError(f"TaskVector - {type(other).__name__} is not defined.", "subtract two task vectors.")
        check_compatible(self, other)
        return TaskVector(self.terms + (-other).terms)

    def __rsub__(self, other: object) -> TaskVector:
        raise SpaceError(f"{type(other).__name__} - TaskVector is not defined.", "subtract two task vectors.")

    def __mul__(self, scale: object) -> TaskVector:
        factor = _number(scale, "TaskVector * {}")
        return TaskVector(tuple((factor * c, leaf) for c, leaf in self.terms))

    __rmul__ = __mul__

    def __truediv__(self, scale: object) -> TaskVector:
        divisor = _number(scale, "TaskVector / {}")
        if divisor == 0.0:
            raise ParameterError("a task vector cannot be divided by 0.", "divide by another number.")
        return TaskVector(tuple((c / divisor, leaf) for c, leaf in self.terms))

    def __rtruediv__(self, other: object) -> TaskVector:
        raise SpaceError(f"{type(other).__name__} / TaskVector is not defined.", "divide the vector by a number.")

    def __repr__(self) -> str:
        return f"<TaskVector {self.describe()}: {len(self.specs)} tensors>"


def _number(scale: object, operation: str) -> float:
    """An int, a float, another real number, or an array or tensor without dimensions."""
    item: object = scale
    if getattr(scale, "shape", None) == ():
        item = scale.item()  # type: ignore[attr-defined]  # numpy's and torch's scalars
    if isinstance(item, bool) or not isinstance(item, numbers.Real | decimal.Decimal):
        raise SpaceError(f"{operation.format(type(scale).__name__)} is not defined.", "scale by a single number.")
    try:
        value = float(item)
    except (OverflowError, ValueError):  # an int beyond float64; Decimal's signalling NaN
        value = math.nan
    if not math.isfinite(value):
        raise ParameterError(
            f"a task vector cannot be scaled by {str(item)[:40]}.", "use a finite number that float64 can hold."
        )
    return value


def _collect(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Add up the coefficients of one and the same leaf.

    A leaf that cancelled stays with the coefficient 0: what was subtracted from another base is still refused.

    Raises:
        ParameterError: a coefficient beyond float64's range.
    """
    sums: dict[int, list[float]] = {}
    leaves: dict[int, AbstractDelta] = {}
    for coefficient, leaf in terms:
        sums.setdefault(id(leaf), []).append(coefficient)
        leaves[id(leaf)] = leaf
    return tuple((_total(cs, leaves[key]), leaves[key]) for key, cs in sums.items())


def _total(coefficients: list[float], leaf: AbstractDelta) -> float:
    try:
        total = math.fsum(coefficients)
    except (OverflowError, ValueError):
        total = math.inf
    if not math.isfinite(total):
        raise ParameterError(f"the coefficient of {leaf.describe()} is beyond float64's range.", "use smaller scales.")
    return total


def _common_specs(terms: tuple[Term, ...]) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for _, leaf in terms:
        for name, spec in leaf.specs.items():
            specs.setdefault(name, spec)
    return specs


def check_compatible(a: TaskVector, b: TaskVector) -> None:
    """Refuse two vectors that were not cut from the same base, as far as that shows without reading a tensor.

    Raises:
        SchemaError: names, shapes or base fingerprints differ.
    """
    for name in a.specs.keys() & b.specs.keys():
        if a.specs[name].shape != b.specs[name].shape:
            raise SchemaError(
                f"tensor '{name}' is {a.specs[name]} in {a.describe()} and {b.specs[name]} in {b.describe()}.",
                "combine vectors of one architecture and size.",
            )
    partial = any(leaf.partial for _, leaf in a.terms + b.terms)
    for name in () if partial else [n for n in a.specs if n not in b.specs] + [n for n in b.specs if n not in a.specs]:
        where, other = (a, b) if name in a.specs else (b, a)
        raise SchemaError(
            f"tensor '{name}' is moved by {where.describe()} and not known to {other.describe()}.",
            "combine vectors of one architecture.",
        )
    if a.base is None or b.base is None or a.base is b.base:
        return
    first, second = a.base.known(), b.base.known()
    if first is not None and second is not None and first != second:
        raise SchemaError(
            f"the vectors were cut from two bases: {a.describe()} from {first}, {b.describe()} from {second}.",
            "use vectors of one base, or vector.rebased() (--rebase) if you mean it.",
        )


def check_same_base(leaves: Sequence[AbstractDelta], name: str) -> None:
    """Refuse a tensor that two leaves were cut from different bases of; hashes it unless the hashes are known.

    Raises:
        SchemaError: the two leaves and their bases.
    """
    known = [(leaf, leaf.base) for leaf in leaves if leaf.base is not None]
    for leaf, base in known[1:]:
        first, origin = known[0]
        if base is not origin and base.tensor(name) != origin.tensor(name):
            raise SchemaError(
                f"{leaf.describe()} and {first.describe()} were cut from different bases (tensor '{name}': "
                f"{base.whole()} and {origin.whole()}).",
                "combine vectors of one base, or use vector.rebased() if you mean it.",
            )
