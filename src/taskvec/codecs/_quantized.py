"""What `int8` and `int4` share: groups of consecutive entries with one scale each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.output import Poll
from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import AbstractDecoder, AbstractEncoder, PartReader, Write, blocks, is_zero
from taskvec.codecs._error import RelativeError
from taskvec.delta import BLOCK
from taskvec.errors import FormatError, NonFiniteError, ParameterError
from taskvec.ops.dtypes import DTYPES
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    import numpy as np

    from taskvec.ops.bits import Floats

CodesOf = Callable[[TensorSpec], TensorSpec]


def check_group(where: str, group: object) -> None:
    """A group is a power of two, from 16 to 65,536 (so that no group straddles a block).

    Raises:
        ParameterError: it is not.
    """
    if not isinstance(group, int) or isinstance(group, bool) or not 16 <= group <= BLOCK or group & (group - 1):
        raise ParameterError(f"{where}: group={group!r} is not a power of two from 16 to {BLOCK}.")


def scales_spec(spec: TensorSpec, group: int) -> TensorSpec:
    """The spec of the scales of a tensor."""
    return TensorSpec((-(-spec.numel // group),), DTYPES["BF16"])


@final
class QuantizingEncoder(AbstractEncoder):
    """Quantises a delta block by block; `codes_of` gives the spec of the codes, `pack` their bytes."""

    def __init__(
        self, kind: str, vector: TaskVector, name: str, *, group: int, limit: int, codes_of: CodesOf, packed: bool
    ) -> None:
        self.kind, self._vector, self._name = kind, vector, name
        self._group, self._limit, self._codes_of, self._packed = group, limit, codes_of, packed
        self._error = RelativeError()

    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """See the base class."""
        spec = self._vector.specs[self._name]
        if is_zero(self._vector, self._name, poll):
            self.kind = "zero"
            return {}
        return {"codes": self._codes_of(spec), "scales": scales_spec(spec, self._group)}

    def emit(self, write: Write) -> None:
        """See the base class."""
        import numpy as np

        from taskvec.ops.quantize import add_dequantized, pack_nibbles, quantize

        for values in blocks(self._vector, self._name) if self.kind != "zero" else ():
            if not np.isfinite(values).all() or np.max(np.abs(values), initial=0.0) > 3e38:
                raise NonFiniteError(
                    f"the delta of tensor '{self._name}' in {self._vector.describe()} has NaN, Inf or a value beyond "
                    "3e38, which cannot be quantised.",
                    "repair the inputs.",
                )
            codes, scales, _ = quantize(values, group=self._group, limit=self._limit)
            back = np.zeros(values.size)
            add_dequantized(back, 1.0, codes, scales, group=self._group, start=0)
            self._error.add(values, back)
            write("codes", pack_nibbles(codes) if self._packed else codes)
            write("scales", scales)

    def fields(self) -> Mapping[str, Any]:
        """See the base class."""
        return {"error": self._error.text(), "group": self._group}


@final
class DequantizingDecoder(AbstractDecoder):
    """Reads codes and scales; `packed` codes are nibbles."""

    def __init__(self, part: PartReader, codes: TensorSpec, *, packed: bool) -> None:
        group = part.fields.get("group")
        try:
            check_group("a quantised delta", group)
        except ParameterError as error:
            raise FormatError(error.fact) from error
        self._part, self._packed, self._group = part, packed, int(group or 0)
        expected = {"codes": codes, "scales": scales_spec(part.spec, self._group)}
        if {role: part.part_spec(role) for role in (*expected, *part.roles())} != expected:
            raise FormatError(f"the parts of a quantised delta do not fit a tensor {part.spec}.")

    def add_to(self, total: Floats, coefficient: float, start: int) -> None:
        """See the base class."""
        from taskvec.ops.quantize import add_dequantized

        stop, n = start + total.size, self._part.spec.numel
        first, last = start // self._group, -(-stop // self._group)
        scales = self._part.bits("scales", first, last)
        offset = first * self._group
        codes: np.ndarray[Any, Any]
        if self._packed:  # groups are even, so a group begins at a whole byte
            codes = self._part.bits("codes", offset // 2, min(-(-n // 2), -(-stop // 2)))
        else:
            codes = self._part.bits("codes", start, stop).view("i1")
        add_dequantized(total, coefficient, codes, scales, group=self._group, start=start - offset)
