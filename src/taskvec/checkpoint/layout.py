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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import final

from taskvec.checkpoint.layout_file import Override, read_override
from taskvec.checkpoint.roles import PRESETS, Role, Split, default_role
from taskvec.checkpoint.source import TensorSpec
from taskvec.errors import ParameterError, UnknownName


@final
@dataclass(frozen=True, slots=True)
class Place:
    """What a layout says of one tensor."""

    spec: TensorSpec
    role: Role
    split: Split | None = None

    @property
    def short_side(self) -> int:
        """The smaller side of a matrix, or of each of its parts."""
        return min(self.split.sides(self.spec.shape) if self.split else self.spec.shape)


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
        chosen = read_override(Path(override), specs) if override is not None else None
        preset = _preset(splits if splits is not None else (chosen.preset if chosen else None))
        return cls(MappingProxyType({n: _place(n, spec, preset, chosen) for n, spec in specs.items()}))

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
