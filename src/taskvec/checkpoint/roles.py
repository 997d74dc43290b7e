"""The roles that tensors have in a `Layout`, and the splits of fused matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

from taskvec.checkpoint.source import TensorSpec

Role = Literal["matrix", "other", "skip"]
Axis = Literal["rows", "columns"]
ROLES: tuple[Role, ...] = ("matrix", "other", "skip")


@final
@dataclass(frozen=True, slots=True)
class Split:
    """`parts` equal matrices, stacked by rows or side by side by columns."""

    axis: Axis
    parts: int

    def pieces(self, shape: Sequence[int]) -> list[tuple[slice, slice]]:
        """The index of each part in a matrix of that shape, in order."""
        size = shape[self._dimension] // self.parts
        cuts = [slice(i * size, (i + 1) * size) for i in range(self.parts)]
        return [(cut, slice(None)) if self.axis == "rows" else (slice(None), cut) for cut in cuts]

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """The shape of each part of a matrix of that shape."""
        m, n = shape
        return (m // self.parts, n) if self.axis == "rows" else (m, n // self.parts)

    def divides(self, shape: Sequence[int]) -> bool:
        """Whether the dimension that is cut can be cut into equal parts."""
        return len(shape) == 2 and shape[self._dimension] % self.parts == 0 and shape[self._dimension] > 0

    def is_square(self, shape: Sequence[int]) -> bool:
        """Whether every part is a square matrix."""
        return self.divides(shape) and shape[self._dimension] == self.parts * shape[1 - self._dimension]

    def __str__(self) -> str:
        return f"{self.axis} {self.parts}"

    @property
    def _dimension(self) -> int:
        return 0 if self.axis == "rows" else 1


# Applied to matrices whose parts come out square, so grouped queries, which are not thirds, stay whole. Layouts that
# interleave the three by head (BLOOM's and GPT-NeoX's query_key_value) are not contiguous thirds and are not listed.
PRESETS: Mapping[str, Mapping[str, Split]] = {
    "fused-qkv": {
        "*c_attn.weight": Split("columns", 3),
        "*in_proj_weight": Split("rows", 3),
        "*qkv.weight": Split("rows", 3),
        "*qkv_proj.weight": Split("rows", 3),
    }
}


def default_role(spec: TensorSpec) -> Role:
    """The role of a tensor from its spec alone."""
    if not spec.dtype.moves:
        return "skip"
    return "matrix" if len(spec.shape) == 2 and min(spec.shape) > 1 else "other"
