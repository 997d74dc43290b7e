"""Merges of points: weights are stacked instead of deltas, and the result is a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.fingerprint import BLANK
from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.source import AbstractSource, check_same_schema
from taskvec.checkpoint.ties import equal_bits
from taskvec.delta import BLOCK, Factors
from taskvec.engine.device import CPU
from taskvec.engine.merging import Merging
from taskvec.errors import NonFiniteError, ParameterError, SchemaError
from taskvec.methods._method import MergeMethod
from taskvec.methods._parameters import Bound

if TYPE_CHECKING:
    from taskvec.ops.bits import Bits, Floats


def merge_points(
    method: MergeMethod,
    named: Mapping[str, Checkpoint],
    bound: Bound,
    *,
    layout: Layout | None,
    base: Checkpoint | None,
    threads: int | None,
    device: str,
) -> Checkpoint:
    """The lazy merge of checkpoints; the base reaches the method as its `base`, and is not one of the inputs.

    Raises:
        ParameterError: a base that is missing, or that the method does not take. SchemaError: different models.
    """
    if method.base == "required" and base is None and method.space == "point":
        raise ParameterError(f"{method.name} needs the base.", "give base=….")
    if method.base == "none" and base is not None:
        raise ParameterError(f"{method.name} takes no base.", "leave it out, or list it among the inputs.")
    first, *others = named.items()
    for name, other in [*others, *([("the base", base)] if base is not None else [])]:
        check_same_schema(first[1].source, other.source, names=(f"'{first[0]}'", f"'{name}'"))
    return Checkpoint(MergedSource(method, named, bound, base=base, layout=layout, threads=threads, device=device))


@final
class _PointInput:
    """A checkpoint as an input of the engine."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._source, self.specs = checkpoint.source, checkpoint.specs

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        from taskvec.ops.bits import add_scaled

        add_scaled(total, coefficient, self._source.block(name, start, start + total.size))

    def read32(self, out: Any, name: str, start: int) -> int:
        from taskvec.ops.bits import read32

        return read32(self._source.block(name, start, start + out.size), out)

    def is_zero(self, name: str) -> bool:
        return name not in self.specs

    def factors(self, _name: str) -> Factors | None:
        return None

    def describe(self) -> str:
        return self._source.describe()


@final
class MergedSource(AbstractSource):
    """What a method makes of several checkpoints: layout, dtypes and side files are those of the base or the first."""

    def __init__(
        self,
        method: MergeMethod,
        points: Mapping[str, Checkpoint],
        bound: Bound,
        *,
        base: Checkpoint | None,
        layout: Layout | None,
        threads: int | None,
        device: str = CPU,
    ) -> None:
        self.points, self.base = dict(points), base
        self.donor = base or next(iter(self.points.values()))
        self.home, self.ties, self.specs = self.donor.source.home, self.donor.source.ties, self.donor.specs
        skipped = set(layout.names("skip") if layout is not None else ())
        moving = {n: s for n, s in self.specs.items() if s.dtype.moves and n not in skipped}
        inputs = {n: _PointInput(c) for n, c in self.points.items()}
        origin = _PointInput(base) if base is not None and "base" in method.injected else None
        options: Any = {"layout": layout, "threads": threads, "device": device, "base": origin}
        self.merging = Merging(method, inputs, bound, specs=moving, **options)

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """See the base class.

        Raises:
            SchemaError: tensors that cannot move differ. NonFiniteError: NaN or Inf in an input or the result.
        """
        import numpy as np

        from taskvec.ops.bits import Block, bits_dtype, count_nonfinite, encode

        name = self.ties.get(name, name)
        spec = self.spec(name)
        if name not in self.merging.specs:
            if not spec.dtype.moves:
                self._check_fixed(name)
            return self.donor.source.bits(name, start, stop)
        same = self._unchanged(name)
        if same is not None:
            out = same.source.bits(name, start, stop)
        else:
            out = np.empty(stop - start, bits_dtype(spec.dtype))
            for at in range(start, stop, BLOCK):
                total = np.zeros(min(BLOCK, stop - at))
                self.merging.add_to(total, 1.0, name, at)
                out[at - start : at - start + total.size] = encode(total, spec.dtype)
        if count_nonfinite(Block(out, spec.dtype)):
            raise self._nonfinite(name, start, stop)
        return out

    def _unchanged(self, name: str) -> Checkpoint | None:
        """The input whose bits the result has, where the merge is one input taken once."""
        single = self.merging.single(name)
        if single is None or self.points[single].specs.get(name) != self.specs[name]:
            return None
        return self.points[single]

    def _nonfinite(self, name: str, start: int, stop: int) -> NonFiniteError:
        from taskvec.ops.bits import count_nonfinite

        for label, point in self.points.items():
            if count_nonfinite(point.source.block(name, start, stop)):
                return NonFiniteError(
                    f"tensor '{name}' has NaN or Inf in '{label}' ({point.source.describe()}).", "repair the input."
                )
        return NonFiniteError(
            f"tensor '{name}' is beyond the range of {self.specs[name].dtype} after {self.merging.method.name}.",
            "use other coefficients, or a wider dtype.",
        )

    def _check_fixed(self, name: str) -> None:
        for label, point in self.points.items():
            if not equal_bits(point.source, name, self.donor.source, name):
                raise SchemaError(
                    f"tensor '{name}' ({self.specs[name]}) differs in '{label}' and cannot be merged.",
                    "give all inputs the same values there.",
                )

    def check(self, progress: Progress = unseen) -> None:
        """See the base class; also runs the folds, so that what they refuse is refused before anything is written."""
        for point in (self.donor, *self.points.values()):
            point.source.check(progress)
        self.merging.fold(progress)

    def hash_inputs(self, name: str) -> None:
        """See the base class."""
        for point in (self.donor, *self.points.values()):
            point.fingerprints.tensor(name)

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        parts = [p.source.inputs() for p in (*self.points.values(), *((self.base,) if self.base else ()))]
        known = (*self.merging.identity(), list(self.points))
        return None if any(p is None for p in parts) else (*parts, known)

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""

        def of(point: Checkpoint) -> dict[str, Any]:
            origin = point.source.recipe(blank=blank)
            return origin or {"name": point.source.title(), "fingerprint": BLANK if blank else point.fingerprint()}

        method = {"method": self.merging.method.name, "parameters": self.merging.bound.to_plain()}
        return {
            "base": of(self.donor),
            **method,
            **self.merging.layout_changes(),
            "inputs": {n: of(p) for n, p in self.points.items()},
        }

    def describe(self) -> str:
        """See the base class."""
        return f"{self.merging.method.name}({', '.join(self.points)})"
