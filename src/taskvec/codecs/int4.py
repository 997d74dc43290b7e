"""Codec `int4`: 4 bits an entry and a bf16 scale a group: error about a tenth of the norm."""

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
class Int4(AbstractCodec):
    """Symmetric codes in [-7, 7], one scale for `group` consecutive entries (a power of two)."""

    group: int = 32
    name: ClassVar[str] = "int4"

    def __post_init__(self) -> None:
        check_group("codec 'int4'", self.group)

    def encoder(self, vector: TaskVector, name: str, *, allow_nonfinite: bool) -> AbstractEncoder:
        """See the base class."""
        return QuantizingEncoder("int4", vector, name, group=self.group, limit=7, codes_of=_codes, packed=True)

    def bound(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        """See the base class."""
        return {"codes": _codes(spec), "scales": scales_spec(spec, self.group)}

    @classmethod
    def decoder(cls, part: PartReader) -> AbstractDecoder:
        """See the base class."""
        return DequantizingDecoder(part, _codes(part.spec), packed=True)


def _codes(spec: TensorSpec) -> TensorSpec:
    return TensorSpec((-(-spec.numel // 2),), DTYPES["U8"])
