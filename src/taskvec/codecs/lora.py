"""Codec `lora`: deltas that are products of two thin matrices, kept as the factors, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from taskvec.checkpoint.output import Poll
from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import AbstractCodec, AbstractDecoder, AbstractEncoder, PartReader, Write, codec
from taskvec.codecs._factored import FactorsDecoder, floats, matrix_shape
from taskvec.codecs._lossless import Lossless, check_finite, holds
from taskvec.delta import Factors
from taskvec.errors import FormatError, ParameterError
from taskvec.ops.dtypes import DTYPES
from taskvec.vector import TaskVector

_TRIED = tuple(DTYPES[code] for code in ("BF16", "F16", "F32", "F64"))


@codec
@final
@dataclass(frozen=True, slots=True)
class Lora(AbstractCodec):
    """Factors as they come from LoRA adapters (sums of them side by side); other tensors dense and lossless."""

    name: ClassVar[str] = "lora"

    def check(self, vector: TaskVector) -> None:
        """See the base class.

        Raises:
            ParameterError: no tensor of the vector is kept as factors.
        """
        if not any(vector.factors(name) for name in vector.names()):
            raise ParameterError(
                f"codec 'lora': {vector.describe()} is not made of factors.",
                "use it for LoRA adapters; codec 'dense' takes any vector.",
            )

    def encoder(self, vector: TaskVector, name: str, *, allow_nonfinite: bool) -> AbstractEncoder:
        """See the base class."""
        factors = vector.factors(name)
        return Lossless(vector, name) if factors is None else _Factored(vector, name, factors)

    def bound(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        """See the base class: factors may be as large as the tensor, or it is dense."""
        m, k = matrix_shape(spec)
        widest = TensorSpec((max(m, k, 1), max(m, k, 1)), DTYPES["F64"])
        return {"a": widest, "b": widest, "delta": TensorSpec(spec.shape, DTYPES["F64"])}

    @classmethod
    def decoder(cls, part: PartReader) -> AbstractDecoder:
        """See the base class."""
        a, b, (m, k) = part.part_spec("a"), part.part_spec("b"), matrix_shape(part.spec)
        two = len(a.shape) == len(b.shape) == 2 and a.dtype.moves and b.dtype.moves
        if part.roles() != {"a", "b"} or not two or a.shape[1] != k or b.shape[0] != m or a.shape[0] != b.shape[1]:
            raise FormatError(f"the factors {b} and {a} do not fit a tensor {part.spec}.")
        return FactorsDecoder(lambda: Factors(floats(part, "b"), floats(part, "a")))


@final
class _Factored(AbstractEncoder):
    kind = "lora"

    def __init__(self, vector: TaskVector, name: str, factors: Factors) -> None:
        for values in factors:
            check_finite(vector, name, values)
        self._parts = {"a": factors.right, "b": factors.left}
        self._dtypes = {r: next(d for d in _TRIED if holds(x.reshape(-1), d)) for r, x in self._parts.items()}

    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """See the base class."""
        return {role: TensorSpec(x.shape, self._dtypes[role]) for role, x in self._parts.items()}

    def emit(self, write: Write) -> None:
        """See the base class."""
        from taskvec.ops.bits import encode

        for role, values in self._parts.items():
            write(role, encode(values.reshape(-1), self._dtypes[role]))
