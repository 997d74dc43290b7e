"""Codec `dense`: one number an entry. Exact by default, down to the last bit of the tuned model."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, final

from taskvec.checkpoint.output import Poll, never
from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import (
    AbstractCodec,
    AbstractDecoder,
    AbstractEncoder,
    PartReader,
    Write,
    blocks,
    check_dtype,
    codec,
    is_zero,
)
from taskvec.codecs._error import RelativeError
from taskvec.codecs._lossless import Lossless, candidates, check_finite
from taskvec.codecs._positions import Positions, position_dtype, position_kind, positions_spec
from taskvec.delta import CHUNK, Difference
from taskvec.errors import FormatError, NonFiniteError
from taskvec.ops.dtypes import DTYPES, DType, dtype_of
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    from taskvec.ops.bits import Bits, Block, Floats


@codec
@final
@dataclass(frozen=True, slots=True)
class Dense(AbstractCodec):
    """`dtype="exact"`: the smallest dtype and a patch list that restore the tuned bits; else a cast to that dtype."""

    dtype: str = "exact"
    name: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        if self.dtype == "exact":
            return
        object.__setattr__(self, "dtype", check_dtype("codec 'dense': dtype", self.dtype).code)

    @property
    def exact(self) -> bool:
        """See the base class."""
        return self.dtype == "exact"

    def encoder(self, vector: TaskVector, name: str, *, allow_nonfinite: bool) -> AbstractEncoder:
        """See the base class."""
        leaf = vector.single()
        if self.dtype != "exact":
            return _Cast(vector, name, dtype_of(self.dtype))
        if isinstance(leaf, Difference):
            return _Exact(leaf, name, allow_nonfinite=allow_nonfinite)
        return Lossless(vector, name)

    def bound(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        """See the base class."""
        if self.dtype != "exact":
            return {"delta": TensorSpec(spec.shape, dtype_of(self.dtype))}
        return {
            "delta": TensorSpec(spec.shape, DTYPES["F64"]),
            "positions": positions_spec(spec.numel, spec.numel),
            "values": TensorSpec((spec.numel,), spec.dtype),
        }

    @classmethod
    def decoder(cls, part: PartReader) -> AbstractDecoder:
        """See the base class."""
        return DenseDecoder(part)


_HELD = 1 << 25  # bytes of one tensor's deltas that are kept from the scan, so that they are not computed twice


_last = threading.local()  # the encoder whose deltas are in this thread's buffer


class _Choice(NamedTuple):
    dtype: DType
    patches: int
    nbytes: int
    held: bool  # whether the thread's buffer still holds all deltas, and `wrong` the positions of all patches
    wrong: list[Any]


@final
class _Exact(AbstractEncoder):
    """tuned − base in the dtype that needs the fewest bytes, patches included."""

    def __init__(self, leaf: Difference, name: str, *, allow_nonfinite: bool) -> None:
        self._leaf, self._name, self._allow = leaf, name, allow_nonfinite
        self._spec = leaf.specs[name]
        self._choice = _Choice(self._spec.dtype, 0, 0, False, [])
        self.exact = True

    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """See the base class: one scan in the usual case, in which the tuned dtype holds nearly every difference."""
        self.kind = "zero"
        if self._leaf.is_zero(self._name):
            return {}
        best: _Choice | None = None
        for dtype in candidates(self._spec.dtype):
            if best is None or self._spec.numel * dtype.itemsize < best.nbytes:
                best = self._scan(dtype, best._replace(held=False) if best else None, poll)
        if best is None:
            raise AssertionError(f"float64 did not hold the deltas of '{self._name}'")
        self._choice = best
        if best.nbytes == 0:
            return {}
        self.kind = "dense"
        parts = {"delta": TensorSpec(self._spec.shape, best.dtype)}
        if best.patches:
            parts["positions"] = positions_spec(self._spec.numel, best.patches)
            parts["values"] = TensorSpec((best.patches,), self._spec.dtype)
        return parts

    def _scan(self, dtype: DType, best: _Choice | None, poll: Poll) -> _Choice | None:
        """The cost of storing in `dtype`; `best` where that is no better or the dtype cannot hold a difference."""
        import numpy as np

        each = position_dtype(self._spec.numel).itemsize + self._spec.dtype.itemsize
        size, patches, moved = self._spec.numel * dtype.itemsize, 0, False
        where: list[Any] = []
        for start, delta, wrong in self._differences(dtype, poll):
            moved = moved or bool(delta.any())
            if wrong.any():
                patches += int(wrong.sum())
                where += [np.flatnonzero(wrong) + start] if size <= _HELD else []
            if best is not None and size + patches * each >= best.nbytes:
                return best
        if self._overflowed:
            return best
        return _Choice(dtype, patches, size + patches * each if moved or patches else 0, size <= _HELD, where)

    def _differences(self, dtype: DType, poll: Poll = never) -> Iterator[tuple[int, Bits, Any]]:
        """(start, delta bits, 1 where a patch is needed) a chunk; both are buffers of this thread, used again."""
        from taskvec.ops.bits import Block, difference

        tuned, base = self._leaf.tuned.source, self._leaf.origin.source
        buffer, whole = self._buffer(dtype)
        _last.encoder = self
        self._overflowed = False
        for start in range(0, self._spec.numel, CHUNK):
            poll()
            stop = min(start + CHUNK, self._spec.numel)
            before, after = base.block(self._name, start, stop), tuned.block(self._name, start, stop)
            delta = Block(buffer[start:stop] if whole else buffer[: stop - start], dtype)
            result = difference(before, after, delta)
            if result.nonfinite and not self._allow:
                self._refuse_nonfinite(before, after)
            self._overflowed |= result.overflow > 0
            yield start, delta.bits, result.wrong

    def _buffer(self, dtype: DType) -> tuple[Bits, bool]:
        """This thread's buffer for deltas, and whether it holds the whole tensor."""
        from taskvec.ops.bits import bits_dtype
        from taskvec.ops.scratch import scratch

        whole = self._spec.numel * dtype.itemsize <= _HELD
        return scratch("exact", self._spec.numel if whole else CHUNK, bits_dtype(dtype)), whole

    def _refuse_nonfinite(self, before: Block, after: Block) -> None:
        from taskvec.ops.bits import count_nonfinite

        for block, source in ((before, self._leaf.origin.source), (after, self._leaf.tuned.source)):
            if count_nonfinite(block):
                raise NonFiniteError(
                    f"tensor '{self._name}' has NaN or Inf in {source.describe()}.",
                    "repair the checkpoint, or keep the values as they are (--allow-nonfinite).",
                )

    def emit(self, write: Write) -> None:
        """See the base class."""
        import numpy as np

        if self.kind == "zero":
            return
        if self._choice.held and getattr(_last, "encoder", None) is self:
            write("delta", self._buffer(self._choice.dtype)[0])
            for where in self._choice.wrong:
                self._patch(write, where)
            return
        for start, delta, wrong in self._differences(self._choice.dtype):
            write("delta", delta)
            if wrong.any():
                self._patch(write, np.flatnonzero(wrong) + start)

    def _patch(self, write: Write, where: Any) -> None:
        """Write the tuned bits at some positions of one chunk."""
        first = int(where[0])
        tuned = self._leaf.tuned.source.bits(self._name, first, int(where[-1]) + 1)
        write("positions", where.astype(position_kind(self._spec.numel)))
        write("values", tuned[where - first])


@final
class _Cast(AbstractEncoder):
    """The values rounded to a dtype."""

    def __init__(self, vector: TaskVector, name: str, dtype: DType) -> None:
        self._vector, self._name, self._dtype = vector, name, dtype
        self._error = RelativeError()

    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """See the base class."""
        self.kind = "zero" if is_zero(self._vector, self._name, poll) else "dense"
        shape = self._vector.specs[self._name].shape
        return {} if self.kind == "zero" else {"delta": TensorSpec(shape, self._dtype)}

    def emit(self, write: Write) -> None:
        """See the base class.

        Raises:
            NonFiniteError: a value beyond the range of the dtype.
        """
        from taskvec.ops.bits import Block, count_nonfinite, decode, encode

        for values in blocks(self._vector, self._name) if self.kind == "dense" else ():
            check_finite(self._vector, self._name, values)
            block = Block(encode(values, self._dtype), self._dtype)
            if count_nonfinite(block):
                raise NonFiniteError(
                    f"the delta of tensor '{self._name}' is beyond the range of {self._dtype}.", "use a wider dtype."
                )
            self._error.add(values, decode(block))
            write("delta", block.bits)

    def fields(self) -> Mapping[str, Any]:
        """See the base class."""
        return {"error": self._error.text()}


@final
class DenseDecoder(AbstractDecoder):
    """Reads `delta`, and the patches where there are any."""

    def __init__(self, part: PartReader) -> None:
        self._part = part
        spec = part.part_spec("delta")
        self._patches = Positions(part) if "positions" in part.roles() else None
        fits = spec.shape == part.spec.shape and spec.dtype.moves
        if self._patches is not None:
            values, positions = part.part_spec("values"), part.part_spec("positions")
            fits = fits and values == TensorSpec(positions.shape, part.spec.dtype)
            fits = fits and positions == positions_spec(part.spec.numel, positions.numel)
        roles = {"delta"} if self._patches is None else {"delta", "positions", "values"}
        if not fits or part.roles() != roles:
            raise FormatError(f"the parts of a dense delta do not fit a tensor {part.spec}.")

    def add_to(self, total: Floats, coefficient: float, start: int) -> None:
        """See the base class."""
        import numpy as np

        from taskvec.ops.bits import Block, add_scaled, decode

        bits = self._part.bits("delta", start, start + total.size)
        add_scaled(total, coefficient, Block(bits, self._part.part_spec("delta").dtype))
        if self._patches is not None:
            # Where the tuned value is NaN or Inf the stored delta is 0, and a sum must not pass for a number.
            first, last, at = self._patches.between(start, start + total.size)
            tuned = decode(Block(self._part.bits("values", first, last), self._part.spec.dtype))
            total[at[~np.isfinite(tuned)]] = np.nan

    def restore(self, out: Bits, start: int) -> None:
        """See the base class."""
        if self._patches is not None:
            first, last, at = self._patches.between(start, start + out.size)
            out[at] = self._part.bits("values", first, last)
