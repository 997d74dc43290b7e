"""`Store`: task vectors of one base under names, in a folder; safe to write from several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.durable import fsync, replace_durably, writing
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.errors import DestinationError, FormatError, ParameterError, SchemaError, StoreError
from taskvec.store.checks import check_base, check_base_type, unknown
from taskvec.store.disk import Disk
from taskvec.store.files import (
    INCOMING,
    VECTORS,
    Incoming,
    check_fits,
    entry_of,
    leftovers,
)
from taskvec.store.manifest import NAME, BaseRecord, Manifest, check_name, entries_of
from taskvec.store.reports import StoreCheck, StoreSize, VectorSize
from taskvec.store.shared import SHARED
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    from taskvec.basis import Basis


@final
class Store(Mapping[str, TaskVector]):
    """A library of task vectors of one base: a mapping from names to lazy vectors, in the order of addition.

        store = Store.create("library", base=base)
        store.add("math", tuned, codec="int8")        # a tuned checkpoint, or any vector of the same base
        model = base + 0.4 * store["math"]

    A vector is on the disk when `add` returns, and named by the manifest only once it is; readers need no lock.
    """

    __slots__ = ("_disk", "base", "path")

    def __init__(self, path: Path, base: Checkpoint | None) -> None:
        self.path, self.base, self._disk = path, base, Disk(path)

    @classmethod
    def create(cls, path: str | Path, base: Checkpoint) -> Store:
        """Make an empty store for vectors of `base` (which is read once, for its fingerprint).

        Raises:
            DestinationError: `path` exists and is not an empty folder.
        """
        check_base_type(base)
        store = cls(Path(path), base)
        store._refuse_occupied()
        manifest = Manifest(BaseRecord.of(base), {})
        with writing(store.path):
            (store.path / VECTORS).mkdir(parents=True, exist_ok=True)
            with store._disk.locked():
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
        record = store._disk.read().base
        if base is not None:
            check_base_type(base)
            check_base(store.path, record, base)
        return store

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint of the base of all vectors."""
        return self._disk.read().base.fingerprint

    def names(self) -> list[str]:
        """The names of the vectors, in the order in which they were added; those of the basis among them."""
        return self._disk.read().names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._disk.read().names())

    def __contains__(self, name: object) -> bool:
        return name in self._disk.read().names()

    def __getitem__(self, name: str) -> TaskVector:
        """The vector `name`, lazily: its header is checked now, its numbers before their first use.

        Raises:
            UnknownName: no such vector. StoreError: its file is missing, swapped or damaged.
        """
        for fresh in (False, True):  # another process may have replaced it since the manifest was read
            manifest = self._disk.read(fresh=fresh)
            if name not in manifest.names():
                if fresh:
                    raise unknown(self.path, name, manifest)
                continue
            try:
                if name in manifest.vectors:
                    return self._disk.open(name, manifest.vectors[name], manifest.base)
                return self._disk.recover(name, manifest)
            except (StoreError, FormatError):
                if fresh:
                    raise
        raise AssertionError("unreachable")

    def basis(self) -> Basis:
        """The basis of the store.

        Raises:
            StoreError: it has none, or a file of it is missing, swapped or damaged.
        """
        from taskvec.store.based import basis_of

        manifest = self._disk.read(fresh=True)
        if manifest.basis is None:
            raise StoreError(f"the store '{self.path}' has no basis.", "make one: taskvec basis fit, Store.fit_basis.")
        members = [self._disk.member(m, manifest) for m in range(len(manifest.basis.vectors))]
        return basis_of(manifest.basis, members)

    def error(self, name: str) -> float:
        """‖stored − τ‖ / ‖τ‖ at most, for a task that comes from the basis; else the largest error of its tensors.

        Raises:
            UnknownName: no such vector.
        """
        manifest = self._disk.read(fresh=True)
        if name in manifest.vectors:
            return manifest.vectors[name].error
        if manifest.basis is None or name not in manifest.basis.tasks:
            raise unknown(self.path, name, manifest)
        return manifest.basis.tasks[name].error

    def is_recovered(self, name: str) -> bool:
        """Whether a vector comes from the basis."""
        manifest = self._disk.read()
        return name not in manifest.vectors and manifest.basis is not None and name in manifest.basis.tasks

    def check_negation(self, name: str, *, force: bool = False) -> None:
        """Refuse to subtract a task that comes back from the basis as something else; every other name passes.

        Raises:
            ParameterError: its error is above 0.5 (unless forced), with the number.
        """
        if self.is_recovered(name):
            from taskvec.basis.basis import check_negation

            check_negation(name, self.error(name), force=force)

    def has_basis(self) -> bool:
        """Whether there is a basis."""
        return self._disk.read(fresh=True).basis is not None

    def own_files(self) -> list[str]:
        """The names of the vectors that have a file of their own, whether or not they are tasks of the basis, too."""
        return list(self._disk.read(fresh=True).vectors)

    def fit_basis(
        self,
        size: int | None = None,
        method: str = "addition_exact",
        *,
        codec: str = "dense",
        parameters: Mapping[str, Any] | None = None,
        drop: bool = False,
        force: bool = False,
        threads: int | None = None,
        progress: Progress = unseen,
        **options: Any,
    ) -> Basis:
        """Make a basis of all vectors and keep its M vectors in shared files; see `Basis.fit`.

        Args:
            size: M. "cluster" alone can choose it (None).
            method: a name of `tv.basis.names()`.
            codec: how the M vectors are stored (default: float32, or as they are where they are the tasks themselves).
            parameters: those of the codec.
            drop: remove the tasks' own files, so that every task comes from the basis from then on.
            force: replace a basis.
            threads: workers; default: one a processor.
            progress: called with (name of the step, bytes done, bytes in all), from any thread.
            **options: those of `Basis.fit` and of the method.

        Raises:
            DestinationError: there is a basis (and not force). StoreError: tasks that are only in the present basis.
            Others: see `Basis.fit` and `add`.
        """
        from taskvec.store.based import Coding
        from taskvec.store.fitting import fit_basis

        asked: dict[str, Any] = {"size": size, "method": method, **options}
        work: dict[str, Any] = {"threads": threads, "progress": progress}
        fit_basis(self._disk, asked, Coding(codec, parameters), drop=drop, force=force, **work)
        return self.basis()

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
            codec: how each delta is stored, with its own `parameters`; "basis": the task joins the basis of the store,
                whose vectors change, and what all tasks lose by that is added up.
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
        manifest = self._disk.read()
        self._check_free(check_name(name), manifest, force=force)
        if "shard_size" in parameters:
            raise ParameterError("shard_size: a store keeps each vector in one file.", "leave it out.")
        moved = self._moved(name, vector, manifest.base)
        if codec == "basis":
            from taskvec.store.fitting import join_basis

            join_basis(self._disk, name, moved, parameters, threads=threads, progress=progress)
            return
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
        with self._disk.locked():
            before = self._disk.read(fresh=True)
            if before.base.fingerprint != base.fingerprint:
                raise StoreError(f"'{self.path}' became a store of another base meanwhile.", "open it again.")
            self._check_free(name, before, force=force)
            after = before.adding(name, entry)
            prepared.replace(self.path / after.vectors[name].file)
            fsync(self.path / VECTORS)
            self._disk.replace(after)

    def remove(self, name: str) -> None:
        """Remove a vector and its file.

        Raises:
            UnknownName: no such vector.
        """
        with writing(self.path), self._disk.locked():
            before = self._disk.read(fresh=True)
            if name not in before.names():
                raise unknown(self.path, name, before)
            self._disk.replace(before.removing(name))

    def verify(self) -> StoreCheck:
        """Read every byte of every vector and compare it with its hash; list what the manifest does not name.

        Raises:
            StoreError: the manifest itself is damaged.
        """
        intact, problems = [], []
        for name in entries_of(self._disk.read(fresh=True)):
            found = self._disk.problems(name)
            problems += found or []
            intact += [name] if found == [] else []
        known = self._disk.read(fresh=True)
        return StoreCheck(tuple(intact), tuple(problems), tuple(leftovers(self.path, known)))

    def size(self) -> StoreSize:
        """Bytes a vector and shared, beside dense vectors of the same model; reads the manifest only."""
        manifest = self._disk.read(fresh=True)
        moving = sum(s.numel for s in manifest.base.specs.values() if s.dtype.moves)
        rows = (
            VectorSize(n, str(e.codec["name"]), e.nbytes, e.error, *(e.nbytes / max(1, k * moving) for k in (4, 2)))
            for n, e in manifest.vectors.items()
        )
        record = manifest.basis
        tasks = record.tasks if record else {}
        based = (VectorSize(n, "basis", 0, t.error, 0.0, 0.0) for n, t in tasks.items() if n not in manifest.vectors)
        order = {name: i for i, name in enumerate(manifest.names())}
        both = sorted((*rows, *based), key=lambda row: order[row.name])
        shared = (self.path / NAME).stat().st_size + sum(v.nbytes for v in (record.vectors if record else ()))
        return StoreSize(tuple(both), shared, 4 * moving, 2 * moving)

    def _check_free(self, name: str, manifest: Manifest, *, force: bool) -> None:
        if name in manifest.names() and not force:
            raise DestinationError(
                f"the store '{self.path}' has a vector named '{name}' already.",
                "choose another name, or replace it with force=True (--force).",
            )

    def _refuse_occupied(self) -> None:
        """Refuse to make a store where something else is; what a killed `create` left is nothing."""
        if not os.path.lexists(self.path):
            return
        own = {VECTORS, SHARED, INCOMING, ".lock", f"{NAME}.new"}
        found = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else [""]
        if set(found) - own or any((self.path / VECTORS).glob("*")):
            what = "is a store already" if NAME in found else "exists and is not an empty folder"
            raise DestinationError(f"'{self.path}' {what}.", "choose another path, or open the store that is there.")

    def __repr__(self) -> str:
        return f"<Store '{self.path}': {', '.join(self.names()) or 'empty'}>"

    __eq__ = object.__eq__
    __hash__ = object.__hash__
