"""`Store`: task vectors of one base under names, in a folder; safe to write from several processes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.durable import fsync, replace_durably, writing
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.source import stat_key
from taskvec.errors import DestinationError, FormatError, ParameterError, SchemaError, StoreError, UnknownName
from taskvec.store.files import (
    INCOMING,
    VECTORS,
    Incoming,
    check_fits,
    entry_of,
    leftovers,
    missing,
    open_vector,
    problems_of,
    refuse_links,
    sweep,
)
from taskvec.store.manifest import NAME, BaseRecord, Entry, Manifest, check_name, read_manifest
from taskvec.store.reports import Problem, StoreCheck, StoreSize, VectorSize
from taskvec.vector import TaskVector

_PATIENCE = 60.0  # seconds to wait for the lock, which is held for a rename and a small file at a time
_LIMIT = 1 << 30  # bytes of a manifest


@final
class Store(Mapping[str, TaskVector]):
    """A library of task vectors of one base: a mapping from names to lazy vectors, in the order of addition.

        store = Store.create("library", base=base)
        store.add("math", tuned, codec="int8")        # a tuned checkpoint, or any vector of the same base
        model = base + 0.4 * store["math"]

    A vector is on the disk when `add` returns, and named by the manifest only once it is; readers need no lock.
    """

    __slots__ = ("_manifest", "_opened", "base", "path")

    def __init__(self, path: Path, base: Checkpoint | None) -> None:
        self.path, self.base = path, base
        self._manifest: tuple[tuple[object, ...], Manifest] | None = None
        self._opened: dict[str, tuple[Entry, tuple[object, ...], TaskVector]] = {}

    @classmethod
    def create(cls, path: str | Path, base: Checkpoint) -> Store:
        """Make an empty store for vectors of `base` (which is read once, for its fingerprint).

        Raises:
            DestinationError: `path` exists and is not an empty folder.
        """
        _check_base_type(base)
        store = cls(Path(path), base)
        store._refuse_occupied()
        manifest = Manifest(BaseRecord.of(base), {})
        with writing(store.path):
            (store.path / VECTORS).mkdir(parents=True, exist_ok=True)
            with store._locked():
                store._refuse_occupied()
                replace_durably(store.path / NAME, manifest.text())
            fsync(store.path.absolute().parent)
        return store

    @classmethod
    def open(cls, path: str | Path, base: Checkpoint | None = None) -> Store:
        """Open a store; with `base`, check that it is the store's: its headers, and its fingerprint (cached).

        Raises:
            StoreError: no store there, or a damaged one.
            SchemaError: `base` is another one; shows both fingerprints.
        """
        store = cls(Path(path), base)
        record = store._read().base
        if base is not None:
            _check_base_type(base)
            _check_base(store.path, record, base)
        return store

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint of the base of all vectors."""
        return self._read().base.fingerprint

    def names(self) -> list[str]:
        """The names of the vectors, in the order in which they were added."""
        return list(self._read().vectors)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._read().vectors)

    def __contains__(self, name: object) -> bool:
        return name in self._read().vectors

    def __getitem__(self, name: str) -> TaskVector:
        """The vector `name`, lazily: its header is checked now, its numbers before their first use.

        Raises:
            UnknownName: no such vector. StoreError: its file is missing, swapped or damaged.
        """
        for fresh in (False, True):  # another process may have replaced it since the manifest was read
            manifest = self._read(fresh=fresh)
            if name not in manifest.vectors:
                if fresh:
                    raise _unknown(self.path, name, manifest)
                continue
            try:
                return self._open(name, manifest)
            except (StoreError, FormatError):
                if fresh:
                    raise
        raise AssertionError("unreachable")

    def _open(self, name: str, manifest: Manifest) -> TaskVector:
        """The same leaf while the file is the same, so that (a + b) - b is a."""
        entry = manifest.vectors[name]
        found = self._opened.get(name)
        try:
            key = stat_key(self.path / entry.file)
            if found is None or found[:2] != (entry, key):
                leaf = open_vector(self.path, name, entry, manifest.base)
                found = self._opened[name] = (entry, key, TaskVector(((1.0, leaf),)))
        except OSError as error:
            raise missing(self.path, name, entry, error) from error
        return found[2]

    def add(
        self,
        name: str,
        vector: TaskVector | Checkpoint,
        codec: str = "dense",
        *,
        force: bool = False,
        threads: int | None = None,
        allow_nonfinite: bool = False,
        progress: Progress = unseen,
        **parameters: Any,
    ) -> None:
        """Store a vector, or a tuned checkpoint of the base that the store was opened with, under `name`.

        Args:
            name: any non-empty printable text.
            vector: what to store. One without a recorded base (a LoRA adapter) must fit the base's names and shapes.
            codec: how each delta is stored, with its own `parameters`.
            force: replace a vector of that name.
            threads: workers; default: one a processor.
            allow_nonfinite: keep NaN and Inf of a tuned checkpoint (dense, exact) instead of refusing them.
            progress: called with (name of the step, bytes done, bytes in all), from any thread.
            **parameters: those of the codec, e.g. `density`.

        Raises:
            DestinationError: the name is taken (and not force), or the disk is full.
            SchemaError: a vector of another base. StoreError: another process is adding under the same name.
            ParameterError: a name or a parameter that cannot be. NonFiniteError: NaN or Inf in an input.
        """
        manifest = self._read()
        self._check_free(check_name(name), manifest, force=force)
        if "shard_size" in parameters:
            raise ParameterError("shard_size: a store keeps each vector in one file.", "leave it out.")
        moved = self._moved(name, vector, manifest.base)
        options = {"threads": threads, "allow_nonfinite": allow_nonfinite, "progress": progress}
        with writing(self.path), Incoming(self.path, name) as incoming:
            moved.save(incoming.file, codec=codec, force=True, **options, **parameters)
            self._commit(name, incoming.file, manifest.base, force=force)

    def _moved(self, name: str, vector: TaskVector | Checkpoint, base: BaseRecord) -> TaskVector:
        if isinstance(vector, Checkpoint):
            if self.base is None:
                raise ParameterError(
                    f"the store '{self.path}' was opened without its base, so '{name}' has nothing to be cut from.",
                    "open it with Store.open(path, base=base), or add tuned - base.",
                )
            vector = vector - self.base
        if not isinstance(vector, TaskVector):
            raise ParameterError(
                f"'{name}' is a {type(vector).__name__}, neither a TaskVector nor a Checkpoint.", "add tuned - base."
            )
        check_fits(name, vector.specs, base.specs)
        for _, leaf in vector.terms:
            found = leaf.base.whole() if leaf.base is not None else base.fingerprint
            if found != base.fingerprint:
                raise SchemaError(
                    f"'{name}' was cut from the base {found}; the base of the store '{self.path}' is "
                    f"{base.fingerprint}.",
                    "keep vectors of different bases in different stores.",
                )
        return vector

    def _commit(self, name: str, prepared: Path, base: BaseRecord, *, force: bool) -> None:
        """Give a finished file its name, then let the manifest name it, then remove what it replaces."""
        entry = entry_of(prepared)
        with self._locked():
            before = self._read(fresh=True)
            if before.base.fingerprint != base.fingerprint:
                raise StoreError(f"'{self.path}' became a store of another base meanwhile.", "open it again.")
            self._check_free(name, before, force=force)
            after = before.adding(name, entry)
            prepared.replace(self.path / after.vectors[name].file)
            fsync(self.path / VECTORS)
            self._replace(after)

    def remove(self, name: str) -> None:
        """Remove a vector and its file.

        Raises:
            UnknownName: no such vector.
        """
        with writing(self.path), self._locked():
            before = self._read(fresh=True)
            if name not in before.vectors:
                raise _unknown(self.path, name, before)
            self._replace(before.removing(name))

    def _replace(self, manifest: Manifest) -> None:
        replace_durably(self.path / NAME, manifest.text())
        sweep(self.path, manifest.vectors)

    def verify(self) -> StoreCheck:
        """Read every byte of every vector and compare it with its hash; list what the manifest does not name.

        Raises:
            StoreError: the manifest itself is damaged.
        """
        intact, problems = [], []
        for name in self.names():
            found = self._problems(name)
            problems += found or []
            intact += [name] if found == [] else []
        known = self._read(fresh=True)
        return StoreCheck(tuple(intact), tuple(problems), tuple(leftovers(self.path, known.vectors)))

    def _problems(self, name: str) -> list[Problem] | None:
        """What is wrong with a vector, also when another process replaces it meanwhile; None: it was removed."""
        entry: Entry | None = None
        found: list[Problem] = []
        while True:
            manifest = self._read(fresh=True)
            if name not in manifest.vectors:
                return None
            if manifest.vectors[name] == entry:
                return found
            entry = manifest.vectors[name]
            rows = problems_of(self.path, name, entry, manifest.base)
            found = [Problem(name, entry.file, tensor, part, message) for tensor, part, message in rows]
            if not found:
                return found

    def size(self) -> StoreSize:
        """Bytes a vector and shared, beside dense vectors of the same model; reads the manifest only."""
        manifest = self._read(fresh=True)
        moving = sum(s.numel for s in manifest.base.specs.values() if s.dtype.moves)
        rows = (
            VectorSize(n, str(e.codec["name"]), e.nbytes, e.error, *(e.nbytes / max(1, k * moving) for k in (4, 2)))
            for n, e in manifest.vectors.items()
        )
        return StoreSize(tuple(rows), (self.path / NAME).stat().st_size, 4 * moving, 2 * moving)

    def _read(self, *, fresh: bool = False) -> Manifest:
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
    def _locked(self) -> Iterator[None]:
        refuse_links(self.path)
        try:
            with FileLock(self.path / ".lock").acquire(timeout=_PATIENCE, poll_interval=0.01):
                yield
        except Timeout:
            raise StoreError(
                f"another process has held the lock of '{self.path}' for {_PATIENCE:g} seconds.", "try again."
            ) from None

    def _check_free(self, name: str, manifest: Manifest, *, force: bool) -> None:
        if name in manifest.vectors and not force:
            raise DestinationError(
                f"the store '{self.path}' has a vector named '{name}' already.",
                "choose another name, or replace it with force=True (--force).",
            )

    def _refuse_occupied(self) -> None:
        """Refuse to make a store where something else is; what a killed `create` left is nothing."""
        if not os.path.lexists(self.path):
            return
        own = {VECTORS, INCOMING, ".lock", f"{NAME}.new"}
        found = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else [""]
        if set(found) - own or any((self.path / VECTORS).glob("*")):
            what = "is a store already" if NAME in found else "exists and is not an empty folder"
            raise DestinationError(f"'{self.path}' {what}.", "choose another path, or open the store that is there.")

    def __repr__(self) -> str:
        return f"<Store '{self.path}': {', '.join(self.names()) or 'empty'}>"

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def _unknown(path: Path, name: object, manifest: Manifest) -> UnknownName:
    return UnknownName.among(f"the store '{path}' has no vector named '{name}'.", str(name), manifest.vectors)


def _check_base_type(base: object) -> None:
    if not isinstance(base, Checkpoint):
        raise ParameterError(f"base is a {type(base).__name__}.", "give a Checkpoint, e.g. Checkpoint.open(path).")


def _check_base(path: Path, record: BaseRecord, base: Checkpoint) -> None:
    """Refuse another base; its fingerprint comes from a cache once its tensors were read."""
    differing = [n for n in record.specs if base.specs.get(n) != record.specs[n]] + [
        n for n in base.specs if n not in record.specs
    ]
    found = base.fingerprint()
    if not differing and found == record.fingerprint:
        return
    first = (
        differing[0]
        if differing
        else next((n for n in record.specs if base.fingerprints.tensor(n) != record.hashes[n]), "")
    )
    here, there = base.specs.get(first), record.specs.get(first)
    detail = f"{there or 'not there'} in the store's, {here or 'not there'} here" if here != there else "other values"
    raise SchemaError(
        f"{base.source.describe()} has the fingerprint {found}; the base of the store '{path}' ('{record.name}') has "
        f"{record.fingerprint} (tensor '{first}': {detail}).",
        "give the store its own base.",
    )
