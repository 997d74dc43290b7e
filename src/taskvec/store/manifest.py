"""`manifest.json`: what a store holds. Parsed as if a stranger had written it."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.fingerprint import fingerprint_of
from taskvec.checkpoint.source import TensorSpec
from taskvec.checkpoint.strict_json import parse
from taskvec.errors import ParameterError, StoreError
from taskvec.ops.dtypes import DTYPES
from taskvec.ops.hashing import HEX, hash_of
from taskvec.store.shared import SUFFIX, BasisRecord, SharedFile, read_basis

NAME = "manifest.json"
VERSION = 1
_PLAIN = frozenset((string.ascii_lowercase + string.digits + "_-.").encode())
_LONGEST = 150  # characters of an encoded name; file systems allow 255 with digits and suffix
_DIGITS = (8, 16, HEX)
_BLANK = "0" * HEX  # stands for the manifest's own hash while that is computed
_RESTORE = "restore it from a copy; the vectors' own files are not needed for that and are not changed."


@final
@dataclass(frozen=True, slots=True)
class BaseRecord:
    """The base that every vector of the store was cut from."""

    name: str
    fingerprint: str
    specs: Mapping[str, TensorSpec]
    hashes: Mapping[str, str]

    @classmethod
    def of(cls, base: Checkpoint) -> BaseRecord:
        """The record of a checkpoint; reads its tensors unless their hashes are cached."""
        hashes = base.fingerprints.tensors()
        return cls(base.source.title(), fingerprint_of(base.specs, hashes), dict(base.specs), hashes)


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One vector: its file, how to know that it is that file, and what a list shows without opening it."""

    file: str
    nbytes: int
    hash: str
    header: str
    codec: Mapping[str, Any]
    error: float
    order: int


@final
@dataclass(frozen=True, slots=True)
class Manifest:
    """The base and the vectors, by name, in the order in which they were added; and the basis, if there is one."""

    base: BaseRecord
    vectors: Mapping[str, Entry]
    basis: BasisRecord | None = None

    def names(self) -> list[str]:
        """All names, in order; a task of the basis that has a file of its own has the place of that."""
        tasks = self.basis.tasks if self.basis else {}
        orders = {**{n: t.order for n, t in tasks.items()}, **{n: e.order for n, e in self.vectors.items()}}
        return sorted(orders, key=lambda name: orders[name])

    def files(self) -> set[str]:
        """The files that belong to the store."""
        return {e.file for e in self.vectors.values()} | {v.file for v in (self.basis.vectors if self.basis else ())}

    def next_order(self) -> int:
        """The order of what is added next."""
        tasks = self.basis.tasks.values() if self.basis else ()
        return 1 + max((e.order for e in (*self.vectors.values(), *tasks)), default=0)

    def text(self) -> str:
        """The file's content: equal manifests give equal bytes."""
        blank = json.dumps(self._table(), sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"
        place = '"hash":"%s","taskvec_store":'  # of the manifest's own hash; a name cannot look like it
        return blank.replace(place % _BLANK, place % hash_of(blank.encode()))

    def _table(self) -> dict[str, Any]:
        base = {n: [s.dtype.code, list(s.shape), self.base.hashes[n]] for n, s in self.base.specs.items()}
        vectors = {
            n: {
                "file": e.file,
                "bytes": e.nbytes,
                "hash": e.hash,
                "header": e.header,
                "codec": dict(e.codec),
                "error": e.error,
                "order": e.order,
            }
            for n, e in self.vectors.items()
        }
        record = {"name": self.base.name, "fingerprint": self.base.fingerprint, "tensors": base}
        basis = {} if self.basis is None else {"basis": self.basis.table()}
        return {"taskvec_store": VERSION, "hash": _BLANK, "base": record, "vectors": vectors, **basis}

    def adding(self, name: str, entry: Entry) -> Manifest:
        """With one more vector, at the end; one that replaces another takes its place. Decides the file's name."""
        old = self.vectors.get(name) or (self.basis.tasks.get(name) if self.basis else None)
        order = old.order if old else self.next_order()
        taken = {e.file: e.hash for e in self.vectors.values()}
        file = next(f for f in file_names(name, entry.hash) if taken.get(f, entry.hash) == entry.hash)
        vectors = {**self.vectors, name: replace(entry, file=file, order=order)}
        return Manifest(self.base, vectors, self.basis.without(name) if self.basis else None)

    def removing(self, name: str) -> Manifest:
        """With one vector less."""
        vectors = {n: e for n, e in self.vectors.items() if n != name}
        return Manifest(self.base, vectors, self.basis.without(name) if self.basis else None)


def entries_of(manifest: Manifest) -> dict[str, Entry | SharedFile]:
    """Every file of the store by what it is called in messages: the vectors' names, shared files as themselves."""
    shared = manifest.basis.vectors if manifest.basis else ()
    return {**manifest.vectors, **{v.file: v for v in shared}}


def check_name(name: object) -> str:
    """A name that a vector may have.

    Raises:
        ParameterError: empty, or with characters that cannot be printed.
    """
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ParameterError(f"{name!r} cannot name a vector.", "use any non-empty text without control characters.")
    return name


def encoded(name: str) -> str:
    """A name as part of a file name, on every file system: no upper case, no other script, not hidden, not too long."""
    raw = name.encode()
    text = "".join(chr(b) if b in _PLAIN and (i or b != ord(".")) else f"%{b:02x}" for i, b in enumerate(raw))
    return text if len(text) <= _LONGEST else f"{text[:100]}~{hash_of(raw)}"


def file_names(name: str, digest: str) -> list[str]:
    """The files that a vector may lie in: its name and the first digits of its hash, as many as tell it from others."""
    return [f"vectors/{encoded(name)}-{digest[:digits]}{SUFFIX}" for digits in _DIGITS]


def read_manifest(path: Path, text: bytes) -> Manifest:
    """The manifest with that text; `path` is the store's.

    Raises:
        StoreError: of an unknown version, damaged, or not what a store may say.
    """
    try:
        table = parse(text)
        version = table["taskvec_store"] if isinstance(table, dict) else None
        if version is None or isinstance(version, dict | list):
            raise ValueError("it does not say its version")
        if version != VERSION or isinstance(version, bool):
            raise StoreError(
                f"'{path}' is a store of version {version!r}; this taskvec reads {VERSION}.", "update taskvec."
            )
        digest = _digest(table["hash"])
        if digest != hash_of(text.replace(digest.encode(), _BLANK.encode())):
            raise ValueError("its hash is not that of its content")
        basis = read_basis(table["basis"], _digest) if "basis" in table else None
        return Manifest(_base(table["base"]), _vectors(table["vectors"]), basis)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) and error.args else str(error)
        raise StoreError(f"the manifest of the store '{path}' is damaged: {what[:200]}.", _RESTORE) from error


def _base(table: Any) -> BaseRecord:
    specs, hashes = {}, {}
    for name, (code, shape, digest) in table["tensors"].items():
        if code not in DTYPES or not isinstance(shape, list) or not all(map(_is_count, shape)):
            raise ValueError(f"tensor '{name}' of the base has no valid dtype and shape")
        specs[name], hashes[name] = TensorSpec(tuple(shape), DTYPES[code]), _digest(digest)
    if table["fingerprint"] != fingerprint_of(specs, hashes):
        raise ValueError("the fingerprint of the base is not that of its tensors")
    return BaseRecord(_text(table["name"]), table["fingerprint"], specs, hashes)


def _vectors(table: Any) -> dict[str, Entry]:
    entries = {name: _entry(name, value) for name, value in table.items()}
    if len({e.order for e in entries.values()}) != len(entries):
        raise ValueError("two vectors have the same order")
    return dict(sorted(entries.items(), key=lambda item: item[1].order))


def _entry(name: str, value: Any) -> Entry:
    if not name or not name.isprintable():
        raise ValueError(f"{name!r} cannot name a vector")
    codec, error = value["codec"], value["error"]
    if not isinstance(codec, dict) or not isinstance(codec.get("name"), str):
        raise ValueError(f"vector '{name}' has no codec")
    if isinstance(error, bool) or not isinstance(error, int | float) or not 0 <= error < math.inf:
        raise ValueError(f"vector '{name}' has no valid error")
    if not (_is_count(value["bytes"]) and _is_count(value["order"])):
        raise ValueError(f"vector '{name}' has no valid size and order")
    digest = _digest(value["hash"])
    if value["file"] not in file_names(name, digest):
        raise ValueError(f"vector '{name}' points to the file {value['file']!r}, which cannot be its own")
    header = _digest(value["header"])
    return Entry(value["file"], value["bytes"], digest, header, codec, float(error), value["order"])


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _digest(value: object) -> str:
    if not isinstance(value, str) or len(value) != HEX or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{str(value)[:40]!r} is not a hash")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is not a text")
    return value
