"""LoRA adapters as leaves of a task vector: kept as two thin factors, multiplied range by range."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.fingerprint import BLANK, Fingerprints
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.source import AbstractSource, TensorSpec
from taskvec.checkpoint.ties import equal_bits
from taskvec.delta import AbstractDelta, Factors
from taskvec.errors import SchemaError

if TYPE_CHECKING:
    from taskvec.ops.bits import Floats

_HELD = 4  # tensors whose factors stay decoded, about one a worker


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """The names of A and B in the adapter, their scale, and whether the tensor is stored as the transpose of B·A.

    Kernels are taken as matrices: A is (rank, in · size of the kernel), B is (out, rank).
    """

    a: str
    b: str
    scale: float
    transposed: bool


@final
@dataclass(frozen=True, slots=True)
class Part:
    """What an adapter says of one tensor of the base: a pair of factors, a whole new tensor, or both."""

    spec: TensorSpec
    pair: Pair | None = None
    saved: str | None = None


@final
class LoraDelta(AbstractDelta):
    """The displacement of one adapter: scale · B·A where it has factors, saved − base where it has whole tensors.

    Products are summed over the rank in float64, each entry in the same order wherever a range is cut, and are never
    held whole. `base` is set when whole tensors make the displacement depend on it.
    """

    partial = True

    def __init__(self, source: AbstractSource, parts: Mapping[str, Part], base: Checkpoint | None) -> None:
        self._source, self._parts = source, parts
        whole = any(part.saved is not None for part in parts.values())
        self._origin = base.source if base is not None and whole else None
        self.base = base.fingerprints if base is not None and whole else None
        self.specs = {name: part.spec for name, part in parts.items() if part.spec.dtype.moves}
        self._held: dict[str, Factors] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors of the adapter, as they are stored."""
        return sum(spec.nbytes for spec in self._source.specs.values())

    def factors(self, name: str) -> Factors | None:
        """See the base class; float64, the scale in the left factor; None when whole tensors take part."""
        part = self._parts.get(name)
        return self._factors(name, part.pair) if part is not None and part.pair and part.saved is None else None

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        from taskvec.ops.bits import add_scaled_difference, add_scaled_product

        part, stop = self._parts[name], start + total.size
        if part.pair is not None and total.size:
            add_scaled_product(total, coefficient, *self._factors(name, part.pair), start)
        if part.saved is not None and self._origin is not None:
            saved, before = self._source.block(part.saved, start, stop), self._origin.block(name, start, stop)
            add_scaled_difference(total, coefficient, saved, before)

    def check(self, progress: Progress = unseen) -> None:
        """Compare the saved tensors that cannot move with the base's.

        Raises:
            SchemaError: one differs.
        """
        for name, part in self._parts.items():
            if part.spec.dtype.moves or part.saved is None or self._origin is None:
                continue
            if not equal_bits(self._source, part.saved, self._origin, name):
                raise SchemaError(
                    f"tensor '{name}' ({part.spec}) of {self.describe()} differs from the base's and cannot move.",
                    "use the base that the adapter was trained on.",
                )

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        mine = self._source.inputs()
        before = self._origin.inputs() if self._origin is not None else ()
        return None if mine is None or before is None else (mine, before)

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        fingerprint = BLANK if blank else Fingerprints(self._source).whole()
        return {"adapter": self._source.title(), "fingerprint": fingerprint}

    def describe(self) -> str:
        """See the base class."""
        return f"the LoRA adapter {self._source.describe()}"

    def _factors(self, name: str, pair: Pair) -> Factors:
        with self._lock:
            found = self._held.get(name)
        if found is None:
            found = self._decoded(pair)
            with self._lock:
                self._held[name] = found
                while len(self._held) > _HELD:
                    del self._held[next(iter(self._held))]
        return found

    def _decoded(self, pair: Pair) -> Factors:
        import numpy as np

        from taskvec.ops.bits import decode

        def read(name: str) -> Floats:
            return decode(self._source.block(name, 0, self._source.spec(name).numel))

        rank = self._source.spec(pair.a).shape[0]
        a, b = read(pair.a).reshape(rank, -1), read(pair.b).reshape(-1, rank) * pair.scale
        if pair.transposed:
            return Factors(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T))
        return Factors(b, a)
