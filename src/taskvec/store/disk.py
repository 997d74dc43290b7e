"""The folder of a store: its manifest, its lock, and its files, each opened once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from taskvec.checkpoint.durable import replace_durably
from taskvec.checkpoint.source import stat_key
from taskvec.errors import StoreError
from taskvec.store.files import missing, open_vector, problems_of, refuse_links, sweep
from taskvec.store.manifest import NAME, BaseRecord, Entry, Manifest, entries_of, read_manifest
from taskvec.store.reports import Problem
from taskvec.store.shared import SharedFile
from taskvec.vector import TaskVector

_PATIENCE = 60.0  # seconds to wait for the lock, which is held for a rename and a small file at a time
_LIMIT = 1 << 30  # bytes of a manifest


@final
class Disk:
    """What a store reads and writes; readers need no lock."""

    __slots__ = ("_manifest", "_opened", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest: tuple[tuple[object, ...], Manifest] | None = None
        self._opened: dict[str, tuple[Entry | SharedFile, tuple[object, ...], TaskVector]] = {}

    def read(self, *, fresh: bool = False) -> Manifest:
        """The manifest, parsed again when the file changed."""
        path = self.path / NAME
        try:
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode):
                raise StoreError(f"'{path}' is not a file of its own.", "a store has no links; do not use this one.")
            key = stat_key(path)
            if fresh or self._manifest is None or self._manifest[0] != key:
                if path.stat().st_size > _LIMIT:
                    raise StoreError(f"'{path}' is larger than {_LIMIT:,} bytes.", "it is not a manifest of ours.")
                self._manifest = (key, read_manifest(self.path, path.read_bytes()))
        except OSError as error:
            raise StoreError(
                f"'{self.path}' is not a store: its {NAME} cannot be read ({error.strerror}).",
                "check the path, or create a store there.",
            ) from error
        return self._manifest[1]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of writers.

        Raises:
            StoreError: another process does not let go of it.
        """
        refuse_links(self.path)
        try:
            with FileLock(self.path / ".lock").acquire(timeout=_PATIENCE, poll_interval=0.01):
                yield
        except Timeout:
            raise StoreError(
                f"another process has held the lock of '{self.path}' for {_PATIENCE:g} seconds.", "try again."
            ) from None

    def replace(self, manifest: Manifest) -> None:
        """Make a manifest the store's, and remove what no manifest names any more; the caller holds the lock."""
        replace_durably(self.path / NAME, manifest.text())
        sweep(self.path, manifest)

    def open(self, name: str, entry: Entry | SharedFile, base: BaseRecord) -> TaskVector:
        """The same leaf while the file is the same, so that (a + b) - b is a."""
        found = self._opened.get(name)
        try:
            key = stat_key(self.path / entry.file)
            if found is None or found[:2] != (entry, key):
                leaf = open_vector(self.path, name, entry, base)
                found = self._opened[name] = (entry, key, TaskVector(((1.0, leaf),)))
        except OSError as error:
            raise missing(self.path, name, entry, error) from error
        return found[2]

    def recover(self, name: str, manifest: Manifest) -> TaskVector:
        """A task of the basis, as a combination of the vectors that it has a part of."""
        record = manifest.basis
        assert record is not None
        each = list(enumerate(record.tasks[name].coefficients))
        members = [(c, self.member(m, manifest)) for m, c in each if c != 0.0] or [(0.0, self.member(0, manifest))]
        return TaskVector(tuple((c * k, leaf) for c, vector in members for k, leaf in vector.terms))

    def member(self, number: int, manifest: Manifest) -> TaskVector:
        """A vector of the basis."""
        assert manifest.basis is not None
        file = manifest.basis.vectors[number]
        return self.open(file.file, file, manifest.base)

    def problems(self, name: str) -> list[Problem] | None:
        """What is wrong with a vector, also when another process replaces it meanwhile; None: it was removed."""
        entry: Entry | SharedFile | None = None
        found: list[Problem] = []
        while True:
            manifest = self.read(fresh=True)
            current = entries_of(manifest).get(name)
            if current is None:
                return None
            if current == entry:
                return found
            entry = current
            rows = problems_of(self.path, name, entry, manifest.base)
            found = [Problem(name, entry.file, tensor, part, message) for tensor, part, message in rows]
            if not found:
                return found
