"""`Layout`: the role of each tensor, decided once and passed along, so that no algorithm looks at names or `ndim`.

    role     matrix   two dimensions, both larger than 1, of a type that moves: spectral methods apply
             other    anything else that moves (biases, norms, scalars, convolution kernels)
             skip     what cannot move (integers, booleans), or what the user wants left alone
    split    a matrix that is really k matrices of equal size, stacked by rows or side by side; off unless asked for

An override is a small YAML file; the first pattern that matches a name decides:

    splits: fused-qkv               # or a table from patterns to "rows 3", "columns 3", "none"
    roles:
      "*embed_tokens.weight": other
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from taskvec.checkpoint.source import TensorSpec
from taskvec.errors import ParameterError, UnknownName

if TYPE_CHECKING:
    from taskvec.checkpoint.layout_file import Override

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


@final
@dataclass(frozen=True, slots=True)
class Place:
    """What a layout says of one tensor."""

    spec: TensorSpec
    role: Role
    split: Split | None = None


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Role and split of each tensor of a checkpoint, in its order; immutable. `print` it to see a table."""

    places: Mapping[str, Place] = field(repr=False)

    @classmethod
    def of(
        cls, specs: Mapping[str, TensorSpec], override: str | Path | None = None, *, splits: str | None = None
    ) -> Layout:
        """Decide the layout of a model from its specs, a YAML file and the name of a preset of splits.

        Raises:
            ParameterError: no such preset, or a file that says what it cannot say; names the line.
        """
        chosen: Override | None = None
        if override is not None:
            from taskvec.checkpoint.layout_file import read_override

            chosen = read_override(Path(override), specs)
        preset = _preset(splits if splits is not None else (chosen.preset if chosen else None))
        return cls({name: _place(name, spec, preset, chosen) for name, spec in specs.items()})

    def __getitem__(self, name: str) -> Place:
        """What the layout says of `name`.

        Raises:
            UnknownName: no such tensor.
        """
        if name not in self.places:
            raise UnknownName.among(f"no tensor named '{name}' in the layout.", name, self.places)
        return self.places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def names(self, role: Role) -> list[str]:
        """The tensors of one role, in order."""
        return [name for name, place in self.places.items() if place.role == role]

    def to_json(self) -> str:
        """{"layout": [{"name", "shape", "dtype", "role", "split"}, ...]}; split is "rows 3", "columns 3" or null."""
        rows = [
            {
                "name": name,
                "shape": list(p.spec.shape),
                "dtype": str(p.spec.dtype),
                "role": p.role,
                "split": str(p.split) if p.split else None,
            }
            for name, p in self.places.items()
        ]
        return json.dumps({"layout": rows}, indent=1)

    def __str__(self) -> str:
        rows = [("name", "tensor", "role", "split")]
        rows += [(n, str(p.spec), p.role, str(p.split or "")) for n, p in self.places.items()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            "  ".join([*(c.ljust(w) for c, w in zip(r, widths, strict=False)), r[3]]).rstrip() for r in rows
        )


def _preset(name: str | None) -> Mapping[str, Split]:
    if name is None or name == "none":
        return {}
    if name not in PRESETS:
        raise ParameterError(f"no splits named '{name}'.", f"known: none, {', '.join(PRESETS)}.")
    return PRESETS[name]


def _place(name: str, spec: TensorSpec, preset: Mapping[str, Split], override: Override | None) -> Place:
    role = (override.role(name) if override else None) or default_role(spec)
    if role != "matrix":
        return Place(spec, role)
    if override is not None and (told := override.split(name)) is not None:
        return Place(spec, role, told if told.parts > 1 else None)
    split = next((s for pattern, s in preset.items() if fnmatchcase(name, pattern) and s.is_square(spec.shape)), None)
    return Place(spec, role, split)


def default_role(spec: TensorSpec) -> Role:
    """The role of a tensor from its spec alone."""
    if not spec.dtype.moves:
        return "skip"
    return "matrix" if len(spec.shape) == 2 and min(spec.shape) > 1 else "other"
