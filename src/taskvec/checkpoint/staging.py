"""The hidden sibling in which an output grows until it is complete, and the rename that makes it appear at once."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from taskvec.checkpoint.written import Written, written_from_json, written_to_json
from taskvec.errors import DestinationError


@final
class Staging:
    """`.NAME.partial` beside the destination: a lock, a journal, and the folder `out` with what was written so far.

    Use as a context manager: a refusal (any Exception) removes it, a kill or an interrupt keeps it, `publish` moves
    its content to the destination. `plan` identifies the run (None: it cannot be resumed).
    """

    def __init__(self, destination: Path, *, plan: str | None, force: bool) -> None:
        self.destination, self.plan, self.force = destination, plan, force
        self.root = destination.parent / f".{destination.name}.partial"
        self.folder = self.root / "out"
        self._journal: Any = None
        self._finished: dict[tuple[str, str], tuple[list[Written], Any]] = {}
        self._guard = threading.Lock()
        self._lock = FileLock(self.root / "lock")

    @property
    def resumed(self) -> int:
        """How many finished units an earlier run left."""
        return len(self._finished)

    def __enter__(self) -> Staging:
        self._refuse_existing()
        if not self.destination.parent.is_dir():
            raise DestinationError(
                f"the folder '{self.destination.parent}' does not exist.", "create it, or choose another destination."
            )
        self._acquire()
        try:
            self._read_journal()
            self.folder.mkdir(exist_ok=True)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._journal is not None:
            self._journal.close()
        if kind is None or not self._keep(error):
            shutil.rmtree(self.root, ignore_errors=True)
        self._lock.release()

    def _keep(self, error: BaseException | None) -> bool:
        # An interrupt, a full disk or an I/O error is no verdict on the input: a later run may go on.
        return not isinstance(error, Exception) or (
            isinstance(error, OSError) and not isinstance(error, DestinationError)
        )

    def _refuse_existing(self) -> None:
        if os.path.lexists(self.destination) and not self.force:
            raise DestinationError(
                f"'{self.destination}' exists already.", "choose another destination, or replace it with --force."
            )

    def _acquire(self) -> None:
        while True:
            self.root.mkdir(exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise DestinationError(
                    f"another process is writing '{self.destination}'.", "wait for it to finish, or stop it."
                ) from None
            except FileNotFoundError:
                continue
            if (self.root / "lock").exists():  # else the other process finished and took the folder with it
                return
            self._lock.release()

    def _read_journal(self) -> None:
        path = self.root / "journal.jsonl"
        lines: list[Any] = []
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                lines.append(json.loads(line))
        if self.plan is not None and lines and lines[0] == {"plan": self.plan}:
            self._finished = {(r["file"], r["unit"]): (written_from_json(r["parts"]), r["note"]) for r in lines[1:]}
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            lines = [{"plan": self.plan}]
        # Written anew, so that a last line cut off by a kill is gone.
        self._journal = path.open("w")
        for line in lines:
            self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()

    def finished(self, file: str, unit: str) -> tuple[list[Written] | None, Any]:
        """What an earlier run with the same plan recorded for a unit, and its note; the bytes are to be checked."""
        return self._finished.get((file, unit), (None, None))

    def record(self, file: str, unit: str, parts: Sequence[Written], note: Any) -> None:
        """Note a finished unit (its data are written, though perhaps not yet on the disk: hence the hashes)."""
        line = json.dumps({"file": file, "unit": unit, "parts": written_to_json(parts), "note": note})
        with self._guard:
            self._journal.write(line + "\n")
            self._journal.flush()

    def require(self, nbytes: int) -> None:
        """Refuse an output that does not fit on the disk.

        Raises:
            DestinationError: with the bytes needed and free.
        """
        have = sum(p.stat().st_blocks * 512 for p in self.folder.rglob("*") if p.is_file())
        free = shutil.disk_usage(self.root).free + have
        if nbytes > free:
            raise DestinationError(
                f"'{self.destination}' needs {nbytes:,} bytes and the disk has {free:,} free.",
                "free some space, or choose another disk.",
            )

    def publish(self, content: Path) -> None:
        """Make `content` (inside the staging folder) the destination, in one step, and make that durable."""
        for path in [*content.rglob("*")] if content.is_dir() else []:
            if path.is_dir():
                _fsync(path)
        if content.is_dir():
            _fsync(content)
        self._refuse_existing()
        if not os.path.lexists(self.destination):
            content.rename(self.destination)
        elif content.is_file() and not self.destination.is_dir():
            content.replace(self.destination)
        else:
            _exchange(content, self.destination)
        _fsync(self.destination.parent)


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swap two paths atomically where the system can (Linux renameat2), else by two renames."""
    at_cwd, exchange = -100, 2
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        renameat2 = getattr(libc, "renameat2", None)
        if renameat2 and renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
            return
    aside = new.with_name(new.name + ".replaced")
    old.rename(aside)
    new.rename(old)
