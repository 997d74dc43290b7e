"""`base + vector` as a source: every range of entries is computed when it is read."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.fingerprint import BLANK
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.source import AbstractSource, TensorSpec
from taskvec.delta import BLOCK, Difference
from taskvec.errors import NonFiniteError, ParameterError, SchemaError, SpaceError
from taskvec.ops.dtypes import DType, dtype_of
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    from taskvec.ops.bits import Bits


@final
class EditedSource(AbstractSource):
    """The base displaced by a vector: summed in float64, rounded once to the output's dtype.

    Where the summed delta is 0 the base's bits stay. One exact leaf taken once gives the tuned model bit for bit, in
    the tuned model's dtypes (and is then rounded to `dtype`, if that is given). Each tensor's base is checked against
    the vector's record before its first range.
    """

    def __init__(
        self, base: Checkpoint, vector: TaskVector, *, dtype: DType | None = None, allow_nonfinite: bool = False
    ) -> None:
        _check_names(base, vector)
        self.base, self.vector = base, vector
        self.home, self.ties = base.source.home, base.source.ties
        self.allow_nonfinite = allow_nonfinite
        leaf = vector.single()
        self._leaf = leaf if leaf is not None and leaf.exact else None
        self.specs = {n: self._output_spec(n, s, dtype) for n, s in base.specs.items()}
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    def _output_spec(self, name: str, spec: TensorSpec, dtype: DType | None) -> TensorSpec:
        if dtype is not None and spec.dtype.moves:
            return TensorSpec(spec.shape, dtype)
        return self._leaf.specs[name] if self._leaf is not None and name in self._leaf.specs else spec

    def describe(self) -> str:
        """See the base class."""
        base = self.base.source.describe()
        return f"{base} + {self.vector.describe()}" if self.vector.terms else base

    def identity(self, name: str) -> tuple[object, ...] | None:
        """A tensor that does not move is the base's own."""
        unmoved = self.vector.is_zero(name) and self.specs[name] == self.base.specs[name]
        return self.base.source.identity(name) if unmoved else None

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        parts = [self.base.source.inputs(), *(leaf.inputs() for _, leaf in self.vector.terms)]
        return None if any(p is None for p in parts) else (*parts, [c for c, _ in self.vector.terms])

    def check(self, progress: Progress = unseen) -> None:
        """See the base class."""
        self.base.source.check(progress)
        self.vector.check(progress)

    def hash_inputs(self, name: str) -> None:
        """See the base class."""
        if self._as_it_is:
            self.base.source.hash_inputs(name)
            return
        self.base.fingerprints.tensor(name)
        for _, leaf in self.vector.terms:
            leaf.hash_inputs(name)

    @functools.cached_property
    def _as_it_is(self) -> bool:
        """A merge of points that nothing displaces is its inputs: its own hash would cost the whole merge once more."""
        return not self.vector.terms and bool(self.base.source.recipe(blank=True))

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        if self._as_it_is:
            return self.base.source.recipe(blank=blank)
        fingerprint = BLANK if blank else self.base.fingerprint()
        terms = [{"coefficient": c, **leaf.recipe(blank=blank)} for c, leaf in self.vector.terms]
        base = self.base.source.recipe(blank=blank) | {"name": self.base.source.title(), "fingerprint": fingerprint}
        return {"base": base, "terms": terms}

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """See the base class.

        Raises:
            SchemaError: the vector was cut from another base, or moves what cannot move.
            NonFiniteError: NaN or Inf in the base or a delta, or a result beyond the dtype's range.
        """
        import numpy as np

        from taskvec.ops.bits import bits_dtype

        name = self.ties.get(name, name)
        spec, before = self.spec(name), self.base.specs[name]
        self._check_base(name)
        if not before.dtype.moves:
            self.vector.check()
            return self.base.source.bits(name, start, stop)
        out = np.empty(stop - start, bits_dtype(spec.dtype))
        self._fill(out, name, start, np.empty(min(BLOCK, out.size)))
        return out

    def read_into(self, out: Bits, name: str, start: int) -> None:
        """See the base class: nothing is allocated on the way."""
        from taskvec.ops.scratch import scratch

        name = self.ties.get(name, name)
        self._check_base(name)
        if self.base.specs[name].dtype.moves:
            # Only the outermost source is read like this: its base, which may be edited too, is read by `bits`.
            self._fill(out, name, start, scratch("edited", min(BLOCK, out.size), "f8"))
        else:
            out[:] = self.bits(name, start, start + out.size)

    def _fill(self, out: Bits, name: str, start: int, total: Any) -> None:
        for at in range(0, out.size, BLOCK):
            end = min(at + BLOCK, out.size)
            self._block(name, start + at, total[: end - at], out[at:end])

    def _block(self, name: str, start: int, total: Any, out: Bits) -> None:
        import numpy as np

        from taskvec.ops.bits import Block, bits_dtype, count_nonfinite, decode, displace, encode

        stop = start + out.size
        dtype = self.specs[name].dtype
        if self.vector.is_zero(name) and dtype == self.base.specs[name].dtype:
            self.base.source.read_into(out, name, start)
            if not self.allow_nonfinite and count_nonfinite(Block(out, dtype)):
                raise self._nonfinite(name, start, stop, patch=False)
            return
        exact = self._leaf.specs[name].dtype if self._leaf is not None and name in self._leaf.specs else dtype
        moved = Block(out if exact == dtype else np.empty(out.size, bits_dtype(exact)), exact)
        self.vector.values(name, start, stop, total)
        before = self.base.source.block(name, start, stop)
        bad, patch = displace(before, total, moved) > 0, False
        if self._leaf is not None and not self._leaf.is_zero(name):
            # base + delta may overflow where the tuned value does not, and a patch may hold a NaN: look at both ends.
            self._leaf.restore(moved.bits, name, start)
            patch = count_nonfinite(moved) > 0
            bad = patch or (bad and count_nonfinite(before) > 0)
        if exact != dtype:
            out[:] = encode(decode(moved), dtype)
            bad = bad or count_nonfinite(Block(out, dtype)) > 0
        if bad and not self.allow_nonfinite:
            raise self._nonfinite(name, start, stop, patch=patch)

    def _nonfinite(self, name: str, start: int, stop: int, *, patch: bool) -> NonFiniteError:
        from taskvec.ops.bits import count_nonfinite

        live = [leaf for c, leaf in self.vector.terms if c != 0.0]
        culprits = [where for leaf in live if (where := leaf.blame(name, start, stop))]
        if count_nonfinite(self.base.source.block(name, start, stop)):
            culprits.insert(0, f"the base ({self.base.source.describe()})")
        if patch:
            culprits.append(self.vector.describe())
        if not culprits:
            return NonFiniteError(
                f"tensor '{name}': base + delta is beyond the range of {self.specs[name].dtype}.",
                "use a smaller scale, or a wider dtype (--dtype float32).",
            )
        return NonFiniteError(
            f"tensor '{name}' has NaN or Inf in {culprits[0]}.", "repair the input, or allow it (--allow-nonfinite)."
        )

    def _check_base(self, name: str) -> None:
        """Refuse a tensor of the base that is not the one a leaf was cut from (by hash, once a tensor)."""
        with self._lock:
            if name in self._checked:
                return
        for _, leaf in self.vector.terms:
            if leaf.base is None or leaf.base is self.base.fingerprints:
                continue
            expected = leaf.base.tensor(name) if name in leaf.base.names() else ""
            found = self.base.fingerprints.tensor(name)
            if expected != found:
                raise SchemaError(
                    f"{leaf.describe()} was cut from another base: tensor '{name}' has the hash {expected or 'none'} "
                    f"there and {found} in {self.base.source.describe()} "
                    f"(fingerprints {leaf.base.whole()} and {self.base.fingerprints.whole()}).",
                    "apply it to its own base, or use vector.rebased() (--rebase) if you mean it.",
                )
        with self._lock:
            self._checked.add(name)


def _check_names(base: Checkpoint, vector: TaskVector) -> None:
    for name, spec in vector.specs.items():
        if name not in base.specs:
            raise SchemaError(
                f"{vector.describe()} moves the tensor '{name}', which {base.source.describe()} does not have.",
                "apply it to the base it was cut from.",
            )
        if spec.shape != base.specs[name].shape:
            raise SchemaError(
                f"{vector.describe()} moves '{name}' as {spec}; in {base.source.describe()} it is {base.specs[name]}.",
                "apply it to the base it was cut from.",
            )
        if not base.specs[name].dtype.moves:
            raise SchemaError(
                f"{vector.describe()} moves '{name}', which is {base.specs[name]} in {base.source.describe()}; "
                "only floating-point tensors move.",
                "apply it to the base it was cut from.",
            )
    if any(leaf.partial for _, leaf in vector.terms) or not vector.terms:
        return
    for name, spec in base.specs.items():
        if spec.dtype.moves and name not in vector.specs:
            raise SchemaError(
                f"{base.source.describe()} has the tensor '{name}', which {vector.describe()} does not know.",
                "apply it to the base it was cut from.",
            )


def edit(base: Checkpoint, vector: object, sign: float) -> Checkpoint:
    """`base + sign * vector`, lazily; (base + v) + w is base + (v + w), unless w was cut from base + v itself.

    Raises:
        SpaceError: `vector` is not a task vector. SchemaError: it does not fit the base.
    """
    if not isinstance(vector, TaskVector):
        symbol = "+" if sign > 0 else "-"
        raise SpaceError(
            f"Checkpoint {symbol} {type(vector).__name__} is not defined.",
            "add a TaskVector: tuned - base, TaskVector.open(...), or one from a store.",
        )
    move = vector if sign > 0 else -vector
    if isinstance(base.source, EditedSource) and not _cut_from(move, base):
        return Checkpoint(EditedSource(base.source.base, base.source.vector + move))
    return Checkpoint(EditedSource(base, move))


def _cut_from(vector: TaskVector, point: Checkpoint) -> bool:
    """Whether a leaf was cut from this very point, as far as that shows without reading a tensor."""
    own = point.fingerprints
    bases = [leaf.base for _, leaf in vector.terms if leaf.base is not None]
    return any(b is own or (own.known() is not None and b.known() == own.known()) for b in bases)


def subtract(tuned: Checkpoint, base: Checkpoint) -> TaskVector:
    """`tuned - base`, lazily; (base + v) - base is v itself, whatever rounding the written model would have had.

    Raises:
        SchemaError: the two do not hold the same tensors in the same shapes and of the same kind.
    """
    if isinstance(tuned.source, EditedSource) and tuned.source.base is base:
        return tuned.source.vector
    return TaskVector(((1.0, Difference(tuned, base)),))


Checkpoint.displace = staticmethod(edit)
Checkpoint.subtract = staticmethod(subtract)


def prepare(checkpoint: Checkpoint, dtype: str | None, allow_nonfinite: bool) -> AbstractSource:
    """The source to write for a checkpoint: a point in memory or in files is its own edit by nothing.

    Raises:
        ParameterError: `dtype` is not a floating-point type.
    """
    target = dtype_of(dtype) if dtype is not None else None
    if target is not None and not target.moves:
        raise ParameterError(f"dtype {target} is not a floating-point type.", "use float32, bfloat16 or float16.")
    source = checkpoint.source
    base, vector = (source.base, source.vector) if isinstance(source, EditedSource) else (checkpoint, TaskVector(()))
    return EditedSource(base, vector, dtype=target, allow_nonfinite=allow_nonfinite)


Checkpoint.prepare = staticmethod(prepare)
