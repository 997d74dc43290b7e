"""Making the basis of a store, and letting a task join it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskvec.basis import Basis
from taskvec.checkpoint.durable import fsync, writing
from taskvec.checkpoint.progress import Progress
from taskvec.errors import DestinationError, ParameterError, StoreError
from taskvec.store.based import Coding, Prepared, basis_of, prepare
from taskvec.store.disk import Disk
from taskvec.store.files import Incoming
from taskvec.store.manifest import Manifest
from taskvec.store.shared import SHARED
from taskvec.vector import TaskVector

_INCOMING = "\0basis"  # no vector can have this name


def fit_basis(
    disk: Disk,
    asked: Mapping[str, Any],
    coding: Coding,
    *,
    drop: bool,
    force: bool,
    threads: int | None,
    progress: Progress,
) -> None:
    """See `Store.fit_basis`; `asked` are the options of `Basis.fit`.

    Raises:
        DestinationError: there is a basis (and not force). StoreError: tasks that are only in the present basis.
    """
    seen = disk.read(fresh=True)
    _check_possible(disk, seen, force=force)
    vectors = {name: disk.open(name, entry, seen.base) for name, entry in seen.vectors.items()}
    basis = Basis.fit(vectors, threads=threads, progress=progress, **asked)
    places: dict[str, tuple[int, str | None]] = {n: (e.order, e.hash) for n, e in seen.vectors.items()}
    work: dict[str, Any] = {"places": places, "vectors": vectors, "threads": threads, "progress": progress}
    _write(disk, basis, coding, seen, drop=drop, work=work)


def join_basis(
    disk: Disk, name: str, vector: TaskVector, given: Mapping[str, Any], *, threads: int | None, progress: Progress
) -> None:
    """A task joins the basis: its vectors are read and written again, those of the other tasks are not needed.

    Raises:
        StoreError: there is no basis. DestinationError: the name is taken. ParameterError: parameters were given.
    """
    seen = disk.read(fresh=True)
    record = seen.basis
    if record is None:
        raise StoreError(f"the store '{disk.path}' has no basis.", "make one: taskvec basis fit, Store.fit_basis.")
    if given:
        raise ParameterError(f"codec 'basis' has no parameter '{next(iter(given))}'.", "leave it out.")
    if name in record.tasks or name in seen.vectors:
        raise DestinationError(f"the store '{disk.path}' has a task named '{name}' already.", "choose another name.")
    basis = basis_of(record, [disk.member(m, seen) for m in range(len(record.vectors))])
    basis.add(name, vector, threads=threads)
    places = {n: (t.order, t.origin) for n, t in record.tasks.items()} | {name: (seen.next_order(), None)}
    how = dict(record.vectors[0].codec)
    coding = Coding(how.pop("name"), how)
    work: dict[str, Any] = {"places": places, "threads": threads, "progress": progress}
    _write(disk, basis, coding, seen, drop=False, work=work)


def _check_possible(disk: Disk, manifest: Manifest, *, force: bool) -> None:
    if not manifest.names():
        raise StoreError(f"the store '{disk.path}' has no vectors of which to make a basis.", "add some first.")
    if manifest.basis is not None and not force:
        raise DestinationError(f"the store '{disk.path}' has a basis.", "replace it with force=True (--force).")
    lost = [n for n in manifest.names() if n not in manifest.vectors]
    if lost:
        raise StoreError(
            f"'{lost[0]}' is kept by the present basis of '{disk.path}' alone.",
            "remove it, or add its own vector again; a new task joins a basis with codec='basis'.",
        )


def _write(disk: Disk, basis: Basis, coding: Coding, seen: Manifest, *, drop: bool, work: Mapping[str, Any]) -> None:
    with writing(disk.path), Incoming(disk.path, _INCOMING) as incoming:
        made = prepare(incoming.file.parent, basis, coding, **work)
        _commit(disk, made, seen, drop=drop)


def _commit(disk: Disk, made: Prepared, seen: Manifest, *, drop: bool) -> None:
    """Give finished files their names, then let the manifest name them, then remove what they replace."""
    with disk.locked():
        before = disk.read(fresh=True)
        if before != seen:
            raise StoreError(f"'{disk.path}' was changed while its basis was made.", "try again.")
        (disk.path / SHARED).mkdir(exist_ok=True)
        for path, file in zip(made.paths, made.record.vectors, strict=True):
            path.replace(disk.path / file.file)
        fsync(disk.path / SHARED)
        disk.replace(Manifest(before.base, {} if drop else before.vectors, made.record))
