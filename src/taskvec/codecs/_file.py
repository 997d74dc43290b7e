"""Reading task-vector files: the table of tensors, checked parts, and the leaf that stands for a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.fingerprint import RecordedBase
from taskvec.checkpoint.safetensors_file import SafetensorsFile
from taskvec.checkpoint.source import TensorSpec, units
from taskvec.codecs._codec import AbstractDecoder, PartReader, get
from taskvec.delta import AbstractDelta, Factors
from taskvec.errors import FormatError, UnknownName
from taskvec.ops.dtypes import dtype_of
from taskvec.ops.hashing import Hasher, hash_of

if TYPE_CHECKING:
    from taskvec.ops.bits import Bits, Floats

FORMAT = "1"
KEYS = ("taskvec_version", "taskvec_codec", "taskvec_base", "taskvec_recipe", "taskvec_tensors")
_AGAIN = "the file is damaged: get it again, or extract the vector again."


@final
class FilePart(PartReader):
    """One tensor's entry in the table of a file."""

    def __init__(self, file: SafetensorsFile, name: str, entry: Mapping[str, Any]) -> None:
        self.name, self.file, self.fields = name, file, entry
        try:
            self.kind = str(entry["codec"])
            self.spec = TensorSpec(tuple(int(d) for d in entry["shape"]), dtype_of(entry["dtype"]))
            self.parts = {str(role): (str(key), str(digest)) for role, (key, digest) in entry["parts"].items()}
            self.exact = entry["exact"] is True
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"the entry of tensor '{name}' in '{file.path}' is not valid.", _AGAIN) from error
        for role, (key, _) in self.parts.items():
            if key not in file.specs:
                raise FormatError(f"part '{role}' of tensor '{name}' ('{key}') is not in '{file.path}'.", _AGAIN)
        self._checked: set[str] = set()
        self._lock = threading.Lock()

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
class FileDelta(AbstractDelta):
    """A task-vector file (or a folder of them) as a leaf."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise FormatError(f"'{path}' holds no *.safetensors file.", "name a task vector.")
        self.parts: dict[str, FilePart] = {}
        tables = [self._read(file) for file in files]
        self.codec, self.recipe_of_origin, base, self.version = tables[0]
        if any(t != tables[0] for t in tables[1:]):
            raise FormatError(f"the files in '{path}' differ in codec, recipe or base.", "keep one vector a folder.")
        self.base = _base(path, base)
        self.specs = {n: p.spec for n, p in self.parts.items()}
        self.partial = self.base is None or any(n not in self.specs for n in self.base.tensors())
        self.exact = bool(self.parts) and all(p.exact for p in self.parts.values())
        self._decoders: dict[str, AbstractDecoder] = {}

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Any], Any, str]:
        file = SafetensorsFile(path)
        version = file.metadata.get("taskvec_format")
        if version is None:
            raise FormatError(
                f"'{path}' is a safetensors file but not a task vector.",
                "a model is opened with Checkpoint.open; tuned - base makes a task vector of two.",
            )
        if version != FORMAT:
            raise FormatError(
                f"'{path}' has the task-vector format '{version}'; this taskvec reads {FORMAT}.", "update."
            )
        try:
            tables = {key: json.loads(file.metadata[key]) for key in KEYS if key != "taskvec_version"}
            table, codec, recipe = tables["taskvec_tensors"], tables["taskvec_codec"], tables["taskvec_recipe"]
            if not all(isinstance(t, dict) for t in (table, codec, recipe)) or not isinstance(codec["name"], str):
                raise ValueError
        except (KeyError, ValueError, RecursionError) as error:
            raise FormatError(f"the metadata of '{path}' are not those of a task vector.", _AGAIN) from error
        used: set[str] = set()
        for name, entry in table.items():
            if name in self.parts:
                raise FormatError(f"tensor '{name}' is in two files of '{self.path}'.", "keep one of them.")
            part = FilePart(file, name, entry)
            used |= {key for key, _ in part.parts.values()}
            self.parts[name] = part
        if used != set(file.specs) or sum(len(p.parts) for p in self.parts.values() if p.file is file) != len(used):
            raise FormatError(f"the tensors of '{path}' are not exactly the parts of its table.", _AGAIN)
        return codec, recipe, tables["taskvec_base"], file.metadata.get("taskvec_version", "")

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
                self._decoders[name] = get(part.kind).decoder(part)
            except UnknownName as error:
                raise FormatError(f"tensor '{name}' in '{self.path}' needs an unknown codec: {error.fact}") from error
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
        return {n: float(p.fields.get("error", 0.0)) for n, p in self.parts.items()}

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


def _base(path: Path, table: Any) -> RecordedBase | None:
    if table is None:
        return None
    try:
        return RecordedBase(str(table["fingerprint"]), {str(n): str(h) for n, h in table["tensors"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"the base recorded in '{path}' is not valid.", _AGAIN) from error
