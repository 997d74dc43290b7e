"""The dtypes of the safetensors format, and what taskvec does with each: floats move, everything else stays.

This module imports nothing heavy: headers are read without numpy and without torch.
"""

from dataclasses import dataclass
from typing import final

from taskvec.errors import FormatError


@final
@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A binary floating-point format of at most 16 bits, enough to decode and encode it.

    `mantissa`: explicit mantissa bits; `bias`: exponent bias; `largest`: code of the largest finite magnitude;
    `nan`: code of the quiet NaN; `negative_zero`: whether the format has one (the FNUZ formats do not).
    """

    mantissa: int
    bias: int
    largest: int
    nan: int
    negative_zero: bool = True


@final
@dataclass(frozen=True, slots=True)
class DType:
    """One element type: its code in a safetensors header, its width in bits, its name in torch.

    `moves` is true for the types whose tensors a task vector displaces; `small` describes those of 8 and 16 bits.
    """

    code: str
    bits: int
    torch: str | None
    moves: bool = False
    small: FloatFormat | None = None

    @property
    def itemsize(self) -> int:
        """Bytes an element (0 for the types that pack several elements into a byte)."""
        return self.bits // 8

    def __str__(self) -> str:
        return self.code


_BF16 = FloatFormat(mantissa=7, bias=127, largest=0x7F7F, nan=0x7FC0)
_F16 = FloatFormat(mantissa=10, bias=15, largest=0x7BFF, nan=0x7E00)
_E5M2 = FloatFormat(mantissa=2, bias=15, largest=0x7B, nan=0x7E)
_E4M3 = FloatFormat(mantissa=3, bias=7, largest=0x7E, nan=0x7F)
_E5M2Z = FloatFormat(mantissa=2, bias=16, largest=0x7F, nan=0x80, negative_zero=False)
_E4M3Z = FloatFormat(mantissa=3, bias=8, largest=0x7F, nan=0x80, negative_zero=False)

DTYPES: dict[str, DType] = {
    d.code: d
    for d in (
        DType("F64", 64, "float64", moves=True),
        DType("F32", 32, "float32", moves=True),
        DType("BF16", 16, "bfloat16", moves=True, small=_BF16),
        DType("F16", 16, "float16", moves=True, small=_F16),
        DType("F8_E5M2", 8, "float8_e5m2", moves=True, small=_E5M2),
        DType("F8_E4M3", 8, "float8_e4m3fn", moves=True, small=_E4M3),
        DType("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", moves=True, small=_E5M2Z),
        DType("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", moves=True, small=_E4M3Z),
        DType("F8_E8M0", 8, "float8_e8m0fnu"),
        DType("BOOL", 8, "bool"),
        DType("U8", 8, "uint8"),
        DType("I8", 8, "int8"),
        DType("U16", 16, "uint16"),
        DType("I16", 16, "int16"),
        DType("U32", 32, "uint32"),
        DType("I32", 32, "int32"),
        DType("U64", 64, "uint64"),
        DType("I64", 64, "int64"),
        DType("C64", 64, "complex64"),
        DType("F4", 4, None),
        DType("F6_E2M3", 6, None),
        DType("F6_E3M2", 6, None),
    )
}

_ALIASES = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "fp64": "F64",
    "fp32": "F32",
    "bf16": "BF16",
    "fp16": "F16",
    "double": "F64",
    "float": "F32",
    "half": "F16",
    **{d.torch: d.code for d in DTYPES.values() if d.torch},
}


def dtype_of(name: object) -> DType:
    """The dtype for a safetensors code, a torch name or a torch dtype (`"BF16"`, `"bfloat16"`, `torch.bfloat16`).

    Raises:
        FormatError: no such dtype.
    """
    text = str(name).removeprefix("torch.")
    code = text if text in DTYPES else _ALIASES.get(text, text.upper())
    if code not in DTYPES:
        raise FormatError(f"unknown dtype '{name}'.", f"use one of {', '.join(DTYPES)}.")
    return DTYPES[code]
