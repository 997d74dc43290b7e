"""Reading singular triplets back: parts that fit their tensor, and the factors they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from taskvec.checkpoint.roles import Split
from taskvec.codecs._codec import PartReader
from taskvec.codecs._factored import floats
from taskvec.codecs._singular import GROUP, Shape
from taskvec.delta import Factors
from taskvec.errors import FormatError

if TYPE_CHECKING:
    from taskvec.ops.bits import Floats

_SPLIT = re.compile(r"(rows|columns) ([1-9][0-9]{0,3})")
_STORED = ("F32", "F16", "BF16", "I8")


def decoder_of(part: PartReader) -> Callable[[], Factors]:
    """What reads the factors of one tensor; its parts are checked now.

    Raises:
        FormatError: parts that do not fit the tensor, more triplets than a matrix has, or an unknown split or group.
    """
    u = part.part_spec("u")
    shape = Shape(part.spec, _split(part), u.dtype)
    count = u.shape[0] if len(u.shape) == 2 else 0
    fits = u.dtype.code in _STORED and 0 < count <= shape.rank * shape.parts
    if not fits or {role: part.part_spec(role) for role in part.roles()} != shape.stored(count):
        raise FormatError(f"the parts of a tsv delta do not fit a tensor {part.spec}.")
    if u.dtype.code == "I8" and part.fields.get("group") != GROUP:
        raise FormatError(f"a tsv delta has group={part.fields.get('group')!r}, not {GROUP}.")

    def read() -> Factors:
        return shape.widened(_ranks(part, shape, count), _factor(part, "u"), floats(part, "s"), _factor(part, "v"))

    return read


def _split(part: PartReader) -> Split | None:
    text = part.fields.get("split")
    if text is None:
        return None
    match = _SPLIT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise FormatError(f"a tsv delta has split={str(text)[:40]!r}, which is not like 'rows 3'.")
    return Split("rows" if match[1] == "rows" else "columns", int(match[2]))


def _ranks(part: PartReader, shape: Shape, count: int) -> list[int]:
    if shape.split is None:
        return [count]
    ranks = [int(r) for r in part.bits("ranks", 0, shape.parts).view("<i4")]
    if sum(ranks) != count or not all(0 <= r <= shape.rank for r in ranks):
        raise FormatError(f"the ranks {str(ranks)[:60]} do not add up to the {count} triplets of a tensor {part.spec}.")
    return ranks


def _factor(part: PartReader, role: str) -> Floats:
    """A factor (triplet, side) as float64."""
    import numpy as np

    from taskvec.ops.quantize import add_dequantized

    spec = part.part_spec(role)
    if spec.dtype.code != "I8":
        return floats(part, role)
    codes, scales = part.bits(role, 0, spec.numel).view("i1"), part.bits(f"{role}_scales", 0, -(-spec.numel // GROUP))
    values = np.zeros(spec.numel)
    add_dequantized(values, 1.0, codes, scales, group=GROUP, start=0)
    return values.reshape(spec.shape)
