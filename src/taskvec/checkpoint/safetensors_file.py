"""One safetensors file: its header parsed and checked by us, its data mapped into memory.

Format: 8 bytes little-endian header length N, N bytes of JSON, then the tensor buffer. Every rule of the format is
checked before the first tensor is handed out, because a header from a stranger decides what memory is read.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.source import TensorSpec, stat_key, unit_bits
from taskvec.checkpoint.strict_json import parse
from taskvec.errors import FormatError
from taskvec.ops.dtypes import DTYPES

if TYPE_CHECKING:
    from taskvec.ops.bits import Bits

MAX_HEADER = 100_000_000  # bytes, the limit of the official library
MAX_DIMENSIONS = 64  # the limit of numpy; it also bounds the cost of multiplying a hostile shape out
_DOWNLOAD = "download or write the file again."


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: its spec and its byte range in the file (absolute)."""

    spec: TensorSpec
    begin: int
    end: int


@final
@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: entries in on-disk order, and the file's own string table."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    size: int


def read_header(path: Path) -> Header:
    """Parse and check the header of `path`, reading nothing but the header.

    Raises:
        FormatError: not a safetensors file, or one that breaks a rule of the format; names file, tensor, expected
            and found.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > MAX_HEADER or 8 + length > size:
                raise FormatError(
                    f"'{path}' is not a complete safetensors file: it has {size} bytes and its header claims {length}.",
                    _DOWNLOAD,
                )
            text = file.read(length)
    except OSError as error:
        raise FormatError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    return _check(path, _parse(path, text), size, 8 + length)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not start with '{'")
        return parse(text)  # type: ignore[no-any-return]  # it starts with '{', so it is a table
    except ValueError as error:
        raise FormatError(f"the header of '{path}' is not valid: {str(error)[:120]}.", _DOWNLOAD) from error


def _check(path: Path, header: dict[str, Any], size: int, begin: int) -> Header:
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"the header of '{path}' has a __metadata__ that is not a table of strings.", _DOWNLOAD)
    entries = [(name, _entry(path, name, value, begin)) for name, value in header.items()]
    entries.sort(key=lambda item: (item[1].begin, item[1].end))
    at = begin
    for name, entry in entries:
        if entry.begin != at:
            what = "overlaps the tensor before it" if entry.begin < at else "leaves a hole before it"
            raise FormatError(
                f"tensor '{name}' in '{path}' {what}: it should begin at byte {at - begin} of the data "
                f"and begins at {entry.begin - begin}.",
                _DOWNLOAD,
            )
        at = entry.end
    if at != size:
        raise FormatError(
            f"'{path}' has {size - begin} bytes of data where its header describes {at - begin}; "
            + ("it is truncated." if at > size else "bytes are left over."),
            _DOWNLOAD,
        )
    return Header(dict(entries), metadata, begin)


def _entry(path: Path, name: str, value: Any, begin: int) -> Entry:
    def is_count(x: Any) -> bool:
        return isinstance(x, int) and not isinstance(x, bool) and 0 <= x < 1 << 63

    try:
        code, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
        whole = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS and start <= stop
        whole = whole and all(map(is_count, [*shape, start, stop]))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise FormatError(
            f"tensor '{name}' in '{path}' has no valid dtype, shape and data_offsets: {str(value)[:120]}.", _DOWNLOAD
        )
    if not isinstance(code, str) or code not in DTYPES:
        raise FormatError(
            f"tensor '{name}' in '{path}' has the unknown dtype {code!r}.", f"known dtypes: {', '.join(DTYPES)}."
        )
    spec = TensorSpec(tuple(shape), DTYPES[code])
    if spec.numel * spec.dtype.bits != 8 * (stop - start):
        raise FormatError(
            f"tensor '{name}' in '{path}' is {spec}, which needs {spec.numel * spec.dtype.bits / 8:g} bytes, "
            f"and its offsets give it {stop - start}.",
            _DOWNLOAD,
        )
    return Entry(spec, begin + start, begin + stop)


@final
class SafetensorsFile:
    """A mapped safetensors file; opening reads the header only, the map is made at the first tensor."""

    __slots__ = ("_buffer", "_lock", "_stat", "_views", "header", "metadata", "path", "specs", "ties")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stat = stat_key(path) if path.is_file() else ()
        self.header = read_header(path)
        self.specs: Mapping[str, TensorSpec] = {n: e.spec for n, e in self.header.entries.items()}
        self.metadata = self.header.metadata
        # The official `save_model` drops all but one of the tied names and writes "dropped name": "kept name" here.
        self.ties = {n: kept for n, kept in self.metadata.items() if kept in self.specs and n not in self.specs}
        self._buffer: Any = None
        self._views: dict[str, Bits | None] = {}  # whole tensors; None where one is misaligned
        self._lock = threading.Lock()

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """Entries [start, stop) of the flattened tensor `name`, without a copy (a copy where it is misaligned)."""
        if name not in self._views:
            self._views[name] = self._view(name)
        view = self._views[name]
        return self._copy(name, start, stop) if view is None else view[start:stop]

    def _view(self, name: str) -> Bits | None:
        import numpy as np

        entry = self.header.entries[name]
        kind = unit_bits(entry.spec.dtype)
        if entry.begin == entry.end:
            return np.empty(0, kind)
        if entry.begin % kind.itemsize:
            return None
        view: Bits = np.frombuffer(self._map(), kind, (entry.end - entry.begin) // kind.itemsize, entry.begin)
        return view

    def _copy(self, name: str, start: int, stop: int) -> Bits:
        import numpy as np

        entry = self.header.entries[name]
        kind = unit_bits(entry.spec.dtype)
        at = entry.begin + start * kind.itemsize
        return np.frombuffer(self._map(), np.uint8, (stop - start) * kind.itemsize, at).copy().view(kind)

    def identity(self, name: str) -> tuple[object, ...]:
        """Equal tuples mean equal bytes: the file's inode, size and times, and the tensor's offset."""
        entry = self.header.entries[name]
        return (*self._stat, entry.begin, entry.end)

    def _map(self) -> Any:
        with self._lock:
            if self._buffer is None:
                if stat_key(self.path) != self._stat:
                    raise FormatError(f"'{self.path}' changed on the disk after it was opened.", "open it again.")
                with self.path.open("rb") as file:
                    self._buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return self._buffer
