"""Codec `sparse`: the largest entries of each tensor and their positions; the rest is 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from taskvec.checkpoint.output import Poll
from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import (
    AbstractCodec,
    AbstractDecoder,
    AbstractEncoder,
    PartReader,
    Write,
    blocks,
    check_dtype,
    check_fraction,
    codec,
)
from taskvec.codecs._error import RelativeError
from taskvec.codecs._positions import Positions, position_kind, positions_spec
from taskvec.errors import FormatError, NonFiniteError, ParameterError
from taskvec.ops.dtypes import DType, dtype_of
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    import numpy as np

    from taskvec.ops.bits import Floats

_STORED = ("F32", "BF16", "F16")


@codec
@final
@dataclass(frozen=True, slots=True)
class Sparse(AbstractCodec):
    """Keep the ceil(density · n) largest entries of a tensor of n; among equals, those that come first.

    `threshold` instead keeps every entry with |x| > threshold. Values are ranked and stored as float32 (`dtype`:
    bfloat16 or float16 to save two bytes an entry). Zeros are never stored.
    """

    density: float | None = None
    threshold: float | None = None
    dtype: str = "F32"
    name: ClassVar[str] = "sparse"

    def __post_init__(self) -> None:
        if self.density is None and self.threshold is None:
            object.__setattr__(self, "density", 0.1)
        if self.density is not None and self.threshold is not None:
            raise ParameterError("codec 'sparse': density and threshold exclude each other.", "give one of them.")
        if self.density is not None:
            object.__setattr__(self, "density", check_fraction("codec 'sparse': density", self.density))
        if self.threshold is not None and not _is_magnitude(self.threshold):
            raise ParameterError(f"codec 'sparse': threshold={self.threshold!r} is not a number from 0 to 3e38.")
        dtype = check_dtype("codec 'sparse': dtype", self.dtype)
        if dtype.code not in _STORED:
            raise ParameterError(f"codec 'sparse': dtype={self.dtype} is not float32, bfloat16 or float16.")
        object.__setattr__(self, "dtype", dtype.code)

    def encoder(self, vector: TaskVector, name: str, *, allow_nonfinite: bool) -> AbstractEncoder:
        """See the base class."""
        return _Selecting(self, vector, name)

    def bound(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        """See the base class."""
        return _parts(spec, spec.numel, dtype_of(self.dtype))

    @classmethod
    def decoder(cls, part: PartReader) -> AbstractDecoder:
        """See the base class."""
        return _Scattering(part)


def _is_magnitude(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 3e38


def _parts(spec: TensorSpec, kept: int, dtype: DType) -> dict[str, TensorSpec]:
    return {"positions": positions_spec(spec.numel, kept), "values": TensorSpec((kept,), dtype)}


@final
class _Selecting(AbstractEncoder):
    def __init__(self, settings: Sparse, vector: TaskVector, name: str) -> None:
        self._settings, self._vector, self._name = settings, vector, name
        self._dtype = dtype_of(settings.dtype)
        self._error = RelativeError()
        self._pattern, self._ties = 0, 0  # the least magnitude kept, and how many entries of just that magnitude

    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """See the base class: two passes for the threshold, one to count."""
        from taskvec.ops import thresholds

        spec = self._vector.specs[self._name]
        self.kind = "zero"
        if self._vector.is_zero(self._name) or spec.numel == 0:
            return {}
        if self._settings.density is None:
            self._pattern, wanted = thresholds.pattern_of(self._settings.threshold or 0.0) + 1, spec.numel
        else:
            wanted = thresholds.kept(self._settings.density, spec.numel)
            self._pattern = thresholds.kth_largest_pattern(lambda: blocks(self._vector, self._name, poll), wanted)
            self._pattern = max(self._pattern, 1)
        above, reached = 0, 0
        for block in blocks(self._vector, self._name, poll):
            above += thresholds.select(block, self._pattern + 1)[0].size
            reached += thresholds.select(block, self._pattern)[0].size
        self._ties = min(wanted, reached) - above
        if not reached:
            return {}
        self.kind = "sparse"
        return _parts(spec, above + self._ties, self._dtype)

    def _select(self, values: Floats) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Positions and float32 values of the entries of a block that are kept; the first ones of equal magnitude."""
        import numpy as np

        from taskvec.ops.thresholds import select

        where, picked = select(values, max(self._pattern, 1))
        tied = np.abs(picked).view(np.uint32) == self._pattern
        first = tied.cumsum() <= self._ties
        self._ties -= min(int(tied.sum()), self._ties)
        keep = ~tied | first
        return where[keep], picked[keep]

    def emit(self, write: Write) -> None:
        """See the base class.

        Raises:
            NonFiniteError: a value that is NaN, infinite or beyond the range of the dtype.
        """
        import numpy as np

        from taskvec.ops.bits import Block, decode, encode

        kind = position_kind(self._vector.specs[self._name].numel)
        start = 0
        for values in blocks(self._vector, self._name):
            where, picked = self._select(values)
            encoded = encode(picked.astype(np.float64), self._dtype)
            decoded = np.zeros(values.size)
            decoded[where] = decode(Block(encoded, self._dtype))
            if not (np.isfinite(values).all() and np.isfinite(decoded).all()):
                raise NonFiniteError(
                    f"the delta of tensor '{self._name}' in {self._vector.describe()} has NaN, Inf or a value beyond "
                    f"the range of {self._dtype}.",
                    "repair the inputs, or use float32 values.",
                )
            self._error.add(values, decoded)
            if self.kind == "sparse":
                write("positions", (where + start).astype(kind))
                write("values", encoded)
            start += values.size

    def fields(self) -> Mapping[str, Any]:
        """See the base class."""
        return {"error": self._error.text()}


@final
class _Scattering(AbstractDecoder):
    def __init__(self, part: PartReader) -> None:
        self._part, self._positions = part, Positions(part)
        count, values = part.part_spec("positions").numel, part.part_spec("values")
        found = {role: part.part_spec(role) for role in part.roles()}
        if values.dtype.code not in _STORED or _parts(part.spec, count, values.dtype) != found:
            raise FormatError(f"the parts of a sparse delta do not fit a tensor {part.spec}.")

    def add_to(self, total: Floats, coefficient: float, start: int) -> None:
        """See the base class."""
        from taskvec.ops.bits import Block, decode

        first, last, at = self._positions.between(start, start + total.size)
        if first < last:
            values = self._part.bits("values", first, last)
            total[at] += coefficient * decode(Block(values, self._part.part_spec("values").dtype))
