"""Codec `int8`: 8 bits an entry and a bf16 scale a group: error a few per mille of the norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import AbstractCodec, AbstractDecoder, AbstractEncoder, PartReader, codec
from taskvec.codecs._quantized import DequantizingDecoder, QuantizingEncoder, check_group, scales_spec
from taskvec.ops.dtypes import DTYPES
from taskvec.vector import TaskVector


@codec
@final
@dataclass(frozen=True, slots=True)
class Int8(AbstractCodec):
    """Symmetric codes in [-127, 127], one scale for `group` consecutive entries (a power of two)."""

    group: int = 128
    name: ClassVar[str] = "int8"

    def __post_init__(self) -> None:
        check_group("codec 'int8'", self.group)

    def encoder(self, vector: TaskVector, name: str, *, allow_nonfinite: bool) -> AbstractEncoder:
        """See the base class."""
        return QuantizingEncoder("int8", vector, name, group=self.group, limit=127, codes_of=_codes, packed=False)

    def bound(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        """See the base class."""
        return {"codes": _codes(spec), "scales": scales_spec(spec, self.group)}

    @classmethod
    def decoder(cls, part: PartReader) -> AbstractDecoder:
        """See the base class."""
        return DequantizingDecoder(part, _codes(part.spec), packed=False)


def _codes(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.shape, DTYPES["I8"])
