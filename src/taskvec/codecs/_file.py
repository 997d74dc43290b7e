"""Reading task-vector files: the table of tensors, checked parts, and the leaf that stands for a file."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.fingerprint import RecordedBase
from taskvec.checkpoint.safetensors_file import SafetensorsFile
from taskvec.checkpoint.source import TensorSpec, units
from taskvec.checkpoint.strict_json import parse
from taskvec.codecs._codec import AbstractDecoder, PartReader, get
from taskvec.delta import AbstractDelta, Factors
from taskvec.errors import FormatError, UnknownName
from taskvec.ops.dtypes import DTYPES
from taskvec.ops.hashing import Hasher, hash_of

if TYPE_CHECKING:
    from taskvec.ops.bits import Bits, Floats

FORMAT = "1"
EXACT = ("zero", "dense")  # the codecs that can restore every bit
KEYS = ("taskvec_codec", "taskvec_recipe", "taskvec_base", "taskvec_tensors", "taskvec_part")
_AGAIN = "the file is damaged: get it again, or extract the vector again."


@final
class FilePart(PartReader):
    """One tensor's entry in the table of a file."""

    def __init__(self, file: SafetensorsFile, name: str, entry: Mapping[str, Any]) -> None:
        self.name, self.file, self.fields = name, file, entry
        try:
            self.kind = str(entry["codec"])
            self.spec = TensorSpec(_shape(entry["shape"]), DTYPES[entry["dtype"]])
            self.parts = {str(role): (str(key), str(digest)) for role, (key, digest) in entry["parts"].items()}
            self.exact = entry["exact"] is True
            self.error = float(entry.get("error", 0.0))
            self.norm = float(entry["norm"]) if "norm" in entry else None
            if not (self.spec.dtype.moves and math.isfinite(self.error) and math.isfinite(self.norm or 0.0)):
                raise ValueError("a dtype that does not move, or an error that is not a number")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"the entry of tensor '{name}' in '{file.path}' is not valid.", _AGAIN) from error
        for role, (key, _) in self.parts.items():
            if key not in file.specs:
                raise FormatError(f"part '{role}' of tensor '{name}' ('{key}') is not in '{file.path}'.", _AGAIN)
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    @property
    def extra(self) -> dict[str, Any]:
        """The fields that are the codec's own (`group`, `error`, …)."""
        return {k: v for k, v in self.fields.items() if k not in ("codec", "shape", "dtype", "parts", "exact")}

    def roles(self) -> frozenset[str]:
        """See the base class."""
        return frozenset(self.parts)

    def part_spec(self, role: str) -> TensorSpec:
        """See the base class."""
        if role not in self.parts:
            raise FormatError(f"tensor '{self.name}' in '{self.file.path}' has no part '{role}'.", _AGAIN)
        return self.file.specs[self.parts[role][0]]

    def bits(self, role: str, start: int, stop: int) -> Bits:
        """See the base class.

        Raises:
            FormatError: the part's bytes are not the ones that were written.
        """
        if role not in self._checked:
            self.verify(role)
        return self.file.bits(self.parts[role][0], start, stop)

    def verify(self, role: str) -> None:
        """Compare the hash of a part, once; refuse numbers that are not the ones that were written."""
        with self._lock:
            if role in self._checked:
                return
            key, expected = self.parts[role]
            total, state = units(self.file.specs[key]), Hasher()
            for at in range(0, total, 1 << 22):
                state.update(self.file.bits(key, at, min(at + (1 << 22), total)))
            if state.hexdigest() != expected:
                raise FormatError(
                    f"part '{role}' of tensor '{self.name}' in '{self.file.path}' is corrupt: its hash is "
                    f"{state.hexdigest()} and should be {expected}.",
                    _AGAIN,
                )
            self._checked.add(role)


@final
@dataclass(frozen=True, slots=True)
class _Tables:
    """What the metadata of one file say."""

    file: SafetensorsFile
    codec: dict[str, Any]
    recipe: dict[str, Any]
    base: Any
    tensors: dict[str, Any]
    version: str
    part: str  # "i of n": which of the files of a folder this is

    @classmethod
    def read(cls, path: Path) -> _Tables:
        """Parse the metadata of `path`."""
        file = SafetensorsFile(path)
        version = file.metadata.get("taskvec_format")
        if version is None:
            raise FormatError(
                f"'{path}' is a safetensors file but not a task vector.",
                "a model is opened with Checkpoint.open; tuned - base makes a task vector of two.",
            )
        if version != FORMAT:
            raise FormatError(
                f"'{path}' has the task-vector format '{version}'; this taskvec reads {FORMAT}.", "update taskvec."
            )
        try:
            codec, recipe, base, tensors, part = (parse(file.metadata[key].encode()) for key in KEYS)
            if not all(isinstance(t, dict) for t in (tensors, codec, recipe)) or not isinstance(codec["name"], str):
                raise ValueError("a table is missing")
            if not re.fullmatch("[0-9]{1,6} of [0-9]{1,6}", str(part)):
                raise ValueError("it does not say which file of how many it is")
        except (KeyError, ValueError) as error:
            raise FormatError(f"the metadata of '{path}' are not those of a task vector ({error}).", _AGAIN) from error
        return cls(file, codec, recipe, base, tensors, file.metadata.get("taskvec_version", ""), part)


def _check_complete(path: Path, tables: Sequence[_Tables]) -> None:
    """Refuse a folder with a file missing or of another vector: what is not there would count as not moved."""
    first = tables[0]
    if any(
        (t.codec, t.recipe, t.base, t.version) != (first.codec, first.recipe, first.base, first.version) for t in tables
    ):
        raise FormatError(f"the files in '{path}' differ in codec, recipe or base.", "keep one vector a folder.")
    count = int(first.part.split(" of ")[1])
    expected = {f"{i} of {count}" for i in range(1, min(count, len(tables)) + 1)}
    if len(tables) != count or {t.part for t in tables} != expected:
        have = ", ".join(f"'{t.file.path.name}' ({t.part})" for t in tables[:5])
        raise FormatError(f"'{path}' is not all {count} files of its vector: {have}.", "open the whole folder.")


@final
class FileDelta(AbstractDelta):
    """A task-vector file (or a folder of them) as a leaf."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise FormatError(f"'{path}' holds no *.safetensors file.", "name a task vector.")
        tables = [_Tables.read(file) for file in files]
        _check_complete(path, tables)
        self.codec, self.recipe_of_origin, self.version = tables[0].codec, tables[0].recipe, tables[0].version
        self.files = tuple(t.file for t in tables)
        self.parts: dict[str, FilePart] = {}
        for t in tables:
            self._add_parts(t)
        self.base = _base(path, tables[0].base)
        self.specs = {n: p.spec for n, p in self.parts.items()}
        self.partial = self.base is None or any(n not in self.specs for n in self.base.tensors())
        self.exact = bool(self.parts) and all(p.exact for p in self.parts.values())
        self._decoders: dict[str, AbstractDecoder] = {}

    def _add_parts(self, tables: _Tables) -> None:
        used: list[str] = []
        for name, entry in tables.tensors.items():
            if name in self.parts:
                raise FormatError(f"tensor '{name}' is in two files of '{self.path}'.", "keep one of them.")
            self.parts[name] = FilePart(tables.file, name, entry)
            used += [key for key, _ in self.parts[name].parts.values()]
        if sorted(used) != sorted(tables.file.specs):
            raise FormatError(f"the tensors of '{tables.file.path}' are not exactly the parts of its table.", _AGAIN)

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        self._decoder(name).add_to(total, coefficient, start)

    def factors(self, name: str) -> Factors | None:
        """See the base class."""
        return None if self.is_zero(name) else self._decoder(name).factors()

    def restore(self, out: Bits, name: str, start: int) -> None:
        """See the base class."""
        self._decoder(name).restore(out, start)

    def is_zero(self, name: str) -> bool:
        """See the base class."""
        return name not in self.parts or self.parts[name].kind == "zero"

    def _decoder(self, name: str) -> AbstractDecoder:
        if name not in self._decoders:
            part = self.parts[name]
            try:
                kind = get(part.kind)
            except UnknownName as error:
                raise FormatError(f"tensor '{name}' in '{self.path}' needs an unknown codec: {error.fact}") from error
            if part.exact and part.kind not in EXACT:
                raise FormatError(f"tensor '{name}' in '{self.path}' claims to be exact as '{part.kind}'.", _AGAIN)
            self._decoders[name] = kind.decoder(part)
        return self._decoders[name]

    def verify(self) -> None:
        """Check the hash of every part.

        Raises:
            FormatError: naming the first part that is corrupt.
        """
        for name, part in self.parts.items():
            for role in part.parts:
                part.verify(role)
            if part.kind != "zero":
                self._decoder(name)

    def error(self) -> dict[str, float]:
        """The recorded relative error of each tensor (0 for an exact one)."""
        return {n: p.error for n, p in self.parts.items()}

    def total_error(self) -> float | None:
        """‖decoded − delta‖ / ‖delta‖ over all tensors; None where the file does not state the norms it needs."""
        norms = [p.norm for p in self.parts.values() if p.norm is not None]
        if len(norms) < len(self.parts):
            return None
        total = math.hypot(*norms)
        return math.hypot(*(p.error * (p.norm or 0.0) for p in self.parts.values())) / total if total else 0.0

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        return tuple((n, p.file.identity(key)) for n, p in self.parts.items() for key, _ in p.parts.values())

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class: the codec, where the file came from, and a hash over all its parts."""
        digests = {n: [p.kind, sorted(p.parts.items())] for n, p in sorted(self.parts.items())}
        content = hash_of(json.dumps(digests, sort_keys=True).encode())
        return {"codec": self.codec, "content": content, "origin": self.recipe_of_origin}

    def describe(self) -> str:
        """See the base class."""
        return f"'{self.path}'"


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(d) is int and d >= 0 for d in value) or math.prod(value) >= 1 << 60:
        raise ValueError("not a shape")
    return tuple(value)


def _base(path: Path, table: Any) -> RecordedBase | None:
    if table is None:
        return None
    try:
        return RecordedBase(str(table["fingerprint"]), {str(n): str(h) for n, h in table["tensors"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"the base recorded in '{path}' is not valid.", _AGAIN) from error
