"""Float64 values in the smallest dtype that holds them all exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from taskvec.checkpoint.output import Poll
from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import AbstractEncoder, Write, blocks, is_zero
from taskvec.errors import NonFiniteError
from taskvec.ops.dtypes import DTYPES, DType
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    from taskvec.ops.bits import Floats

_ALWAYS = (DTYPES["F32"], DTYPES["F64"])


def candidates(dtype: DType) -> list[DType]:
    """The dtypes tried for a tensor whose own is `dtype`, smallest effort first; float64 holds everything."""
    return list(dict.fromkeys((dtype, *_ALWAYS)))


def holds(values: Floats, dtype: DType) -> bool:
    """Whether `dtype` holds every one of the float64 values exactly."""
    import numpy as np

    from taskvec.ops.bits import Block, decode, encode

    return np.array_equal(decode(Block(encode(values, dtype), dtype)), values)


def check_finite(vector: TaskVector, name: str, values: Floats) -> None:
    """Refuse NaN and Inf.

    Raises:
        NonFiniteError: naming tensor and vector.
    """
    import numpy as np

    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"the delta of tensor '{name}' has NaN or Inf in {vector.describe()}.", "repair the inputs."
        )


@final
class Lossless(AbstractEncoder):
    """A delta that is no difference of two checkpoints, as `dense` without patches."""

    def __init__(self, vector: TaskVector, name: str) -> None:
        self._vector, self._name, self._spec = vector, name, vector.specs[name]

    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """See the base class."""
        self.kind = "zero"
        if is_zero(self._vector, self._name, poll):
            return {}
        self.kind = "dense"
        self._dtype = next(d for d in candidates(self._spec.dtype) if self._holds(d, poll))
        return {"delta": TensorSpec(self._spec.shape, self._dtype)}

    def _holds(self, dtype: DType, poll: Poll) -> bool:
        for values in blocks(self._vector, self._name, poll):
            check_finite(self._vector, self._name, values)
            if not holds(values, dtype):
                return False
        return True

    def emit(self, write: Write) -> None:
        """See the base class."""
        from taskvec.ops.bits import encode

        for values in blocks(self._vector, self._name) if self.kind == "dense" else ():
            write("delta", encode(values, self._dtype))
