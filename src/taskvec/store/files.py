"""The files of a store: opening one only if it is the file that was added, a place to prepare a new one, leftovers."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from taskvec.checkpoint.durable import try_lock
from taskvec.checkpoint.source import TensorSpec
from taskvec.checkpoint.staging import partial_of
from taskvec.codecs._file import FileDelta
from taskvec.errors import FormatError, SchemaError, StoreError
from taskvec.ops.hashing import Hasher, hash_of
from taskvec.store.manifest import BaseRecord, Entry, Manifest, encoded
from taskvec.store.shared import SHARED, SUFFIX, SharedFile

VECTORS = "vectors"
INCOMING = ".incoming"
_STEP = 1 << 22
_RESUMABLE = 24 * 3600  # seconds for which a killed `add` can be resumed


def _again(entry: Entry | SharedFile) -> str:
    what = "fit the basis" if isinstance(entry, SharedFile) else "add the vector"
    return f"{what} again with force=True, or restore the file from a copy."


def refuse_links(root: Path) -> None:
    """Refuse a store in which a link stands for one of its own files or folders: it would lead a writer outside.

    Raises:
        StoreError: naming the link.
    """
    for name in ("manifest.json", "manifest.json.new", ".lock", VECTORS, SHARED, INCOMING):
        if (root / name).is_symlink():
            raise StoreError(f"'{root / name}' is a symbolic link.", "a store has none; do not use this one.")


def open_vector(root: Path, name: str, entry: Entry | SharedFile, base: BaseRecord) -> FileDelta:
    """The vector in the file of `entry`, lazily. The header is compared now, every part before its first use.

    Raises:
        StoreError: missing, not the file that was added, or cut from another base than the store's.
        FormatError: damaged. OSError: it vanished meanwhile.
    """
    path = root / entry.file
    refuse_links(root)
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"vector '{name}': '{path}' is a link or a folder, not a file.", _again(entry))
    if found.st_size != entry.nbytes:
        raise StoreError(
            f"vector '{name}': the file '{path}' has {found.st_size:,} bytes and should have {entry.nbytes:,}.",
            _again(entry),
        )
    header = header_hash(path)
    if header != entry.header:
        raise StoreError(
            f"vector '{name}': '{path}' is damaged or another file: the hash of its header is {header} and should be "
            f"{entry.header}.",
            _again(entry),
        )
    leaf = FileDelta(path)
    if leaf.base is not None and leaf.base.known() != base.fingerprint:
        raise StoreError(
            f"vector '{name}' was cut from the base {leaf.base.known()}; this store's is {base.fingerprint}.",
            "remove the vector.",
        )
    check_fits(name, leaf.specs, base.specs)
    for file in leaf.files:  # map it now: the vector stays readable when another process replaces or removes it
        first = next((n for n, s in file.specs.items() if s.numel), None)
        if first is not None:
            file.bits(first, 0, 1)
    return leaf


def missing(root: Path, name: str, entry: Entry | SharedFile, error: OSError) -> StoreError:
    """The error for a vector whose file is not there, or cannot be read."""
    return StoreError(f"vector '{name}': the file '{root / entry.file}' is missing ({error.strerror}).", _again(entry))


def check_fits(what: str, moved: Mapping[str, TensorSpec], base: Mapping[str, TensorSpec]) -> None:
    """Refuse a vector that moves what the base does not have.

    Raises:
        SchemaError: naming the tensor.
    """
    for name, spec in moved.items():
        if name not in base:
            raise SchemaError(
                f"'{what}' moves the tensor '{name}', which the base of the store does not have.",
                "keep vectors of different models in different stores.",
            )
        if spec.shape != base[name].shape or not base[name].dtype.moves:
            raise SchemaError(
                f"'{what}' moves '{name}' as {spec}; in the base of the store it is {base[name]}.",
                "keep vectors of different models in different stores.",
            )


def header_hash(path: Path) -> str:
    """The hash of the first 8 bytes and of as many more as they say: the header, and with it the hash of each part."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = min(int.from_bytes(prefix, "little"), os.fstat(file.fileno()).st_size)
        return hash_of(prefix, file.read(length))


def file_hash(path: Path) -> str:
    """The hash of a whole file."""
    state = Hasher()
    with path.open("rb") as file:
        while data := file.read(_STEP):
            state.update(data)
    return state.hexdigest()


def entry_of(path: Path) -> Entry:
    """What the manifest will say of a finished file, but for its name and order."""
    leaf = FileDelta(path)
    error = max(leaf.error().values(), default=0.0)
    return Entry("", path.stat().st_size, file_hash(path), header_hash(path), leaf.codec, error, 0)


def problems_of(root: Path, name: str, entry: Entry | SharedFile, base: BaseRecord) -> Iterator[tuple[str, str, str]]:
    """Everything wrong with a vector, as (tensor, part, message); reads all of it."""
    try:
        leaf = open_vector(root, name, entry, base)
    except (StoreError, FormatError, SchemaError) as error:
        yield "", "", error.fact
        return
    except OSError as error:
        yield "", "", missing(root, name, entry, error).fact
        return
    sound = True
    for tensor, part in leaf.parts.items():
        for role in part.parts:
            try:
                part.verify(role)
            except FormatError as error:
                sound = False
                yield tensor, role, error.fact
    if sound:
        try:
            leaf.verify()
            if file_hash(root / entry.file) != entry.hash:
                raise FormatError(f"'{root / entry.file}' has not the hash that the manifest names.")
        except FormatError as error:
            yield "", "", error.fact


@final
class Incoming:
    """The folder in which one process prepares the file of one vector; a killed one can be resumed for a day."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._folder = root / INCOMING / encoded(name)
        self._lock: Any = None
        self.file = self._folder / f"vector{SUFFIX}"

    def __enter__(self) -> Incoming:
        refuse_links(self._root)
        self._lock = try_lock(self._folder / "lock")
        if self._lock is None:
            raise StoreError(
                f"another process is adding '{self._name}' to '{self._root}'.", "wait for it to finish and try again."
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None or not partial_of(self.file).exists():
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()


def leftovers(root: Path, manifest: Manifest) -> list[str]:
    """The files, relative to the store, that the manifest does not name."""
    named = manifest.files()
    return [
        path.relative_to(root).as_posix()
        for folder in (VECTORS, SHARED, INCOMING)
        for path in sorted((root / folder).glob("*"))
        if path.relative_to(root).as_posix() not in named
    ]


def sweep(root: Path, manifest: Manifest) -> None:
    """Remove what killed processes left; the caller holds the store's lock. What cannot be removed stays."""
    named = manifest.files()
    with contextlib.suppress(OSError):
        for path in (*(root / VECTORS).glob("*"), *(root / SHARED).glob("*")):
            # files get here under the lock only, so that these have no owner
            if path.name.endswith(SUFFIX) and path.relative_to(root).as_posix() not in named:
                path.unlink()
        for folder in (root / INCOMING).iterdir() if (root / INCOMING).is_dir() else ():
            _sweep_incoming(folder)


def _sweep_incoming(folder: Path) -> None:
    newest = max(p.stat().st_mtime for p in (folder, *folder.rglob("*")))
    lock = try_lock(folder / "lock") if time.time() - newest > _RESUMABLE else None
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
