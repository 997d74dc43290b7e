"""The hidden sibling in which an output grows until it is complete, and the rename that makes it appear at once."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.durable import disk_error, fsync, try_lock, writing
from taskvec.checkpoint.written import Written, written_from_json, written_to_json
from taskvec.errors import DestinationError, TaskVecError
from taskvec.ops.hashing import hash_of

if TYPE_CHECKING:
    from filelock import FileLock


@final
class Staging:
    """`.NAME.partial` beside the destination: a lock, a journal, and the folder `out` with what was written so far.

    Use as a context manager: a refusal (any Exception) removes it; a kill, an interrupt or a full disk keeps it, for
    they are no verdict on the input; `publish` moves its content to the destination. `plan` identifies the run
    (None: it cannot be resumed, and nothing is kept).
    """

    def __init__(self, destination: Path, *, plan: str | None, force: bool) -> None:
        self.destination, self.plan, self.force = destination, plan, force
        self.root = partial_of(destination)
        self.folder = self.root / "out"
        self._journal: Any = None
        self._finished: dict[tuple[str, str], tuple[list[Written], Any]] = {}
        self._guard = threading.Lock()
        self._lock: FileLock | None = None

    @property
    def resumed(self) -> int:
        """How many finished units an earlier run left."""
        return len(self._finished)

    def check(self) -> None:
        """Refuse a destination that exists or whose folder does not, without touching the disk.

        Raises:
            DestinationError: see above.
        """
        self._refuse_existing()
        if not self.destination.parent.is_dir():
            raise DestinationError(
                f"the folder '{self.destination.parent}' does not exist.", "create it, or choose another destination."
            )

    def __enter__(self) -> Staging:
        self.check()
        with writing(self.destination):
            self._lock = try_lock(self.root / "lock")
            if self._lock is None:
                raise DestinationError(
                    f"another process is writing '{self.destination}'.", "wait for it to finish, or stop it."
                )
            try:
                self._bring_back()
                self._read_journal()
                self.folder.mkdir(exist_ok=True)
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        kept = error is not None and self.plan is not None and _is_no_verdict(error)
        with contextlib.suppress(OSError):  # what could not be flushed was not finished
            self._journal.close()
        if not kept:
            shutil.rmtree(self.root, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
        resume = f"'{self.root}' keeps what is finished: the same command goes on from there." if kept else ""
        told = disk_error(error, self.destination, resume) if isinstance(error, OSError) else None
        if told is not None and told is not error:
            raise told from error
        if resume and error is not None:
            error.add_note(resume)

    def _refuse_existing(self) -> None:
        if os.path.lexists(self.destination) and not self.force:
            raise DestinationError(
                f"'{self.destination}' exists already.", "choose another destination, or replace it with --force."
            )

    def _read_journal(self) -> None:
        path = self.root / "journal.jsonl"
        lines = _journal_lines(path)
        if self.plan is not None and lines and lines[0] == {"plan": self.plan}:
            self._finished = _finished_units(lines[1:])
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            lines = [{"plan": self.plan}]
        # Written anew, so that a last line cut off by a kill is gone.
        fresh = path.with_name("journal.new")
        fresh.write_text("".join(map(_line, lines)), encoding="utf-8")
        fresh.replace(path)
        self._journal = path.open("a", encoding="utf-8")

    def keep_only(self, files: Collection[str]) -> None:
        """Remove what lies in `out` and is none of `files`: the side files of a killed run, or what it replaced."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
            elif path.relative_to(self.folder).as_posix() not in files or path.is_symlink():
                path.unlink()

    def finished(self, file: str, unit: str) -> tuple[list[Written] | None, Any]:
        """What an earlier run with the same plan recorded for a unit, and its note; the bytes are to be checked."""
        return self._finished.get((file, unit), (None, None))

    def record(self, file: str, unit: str, parts: Sequence[Written], note: Any) -> None:
        """Note a finished unit (its data are written, though perhaps not yet on the disk: hence the hashes)."""
        line = _line({"file": file, "unit": unit, "parts": written_to_json(parts), "note": note})
        with self._guard:
            self._journal.write(line)
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
        for path in [content, *content.rglob("*")] if content.is_dir() else []:
            if path.is_dir():
                fsync(path)
        self._refuse_existing()
        if not os.path.lexists(self.destination):
            content.rename(self.destination)
        elif content.is_file() and not self.destination.is_dir():
            content.replace(self.destination)
        else:
            _exchange(content, self.destination, self._aside)
        fsync(self.destination.parent)

    @property
    def _aside(self) -> Path:
        return self.root / "replaced"

    def _bring_back(self) -> None:
        """Undo a replacement that was killed between its two renames (where the system cannot swap in one)."""
        if os.path.lexists(self._aside) and not os.path.lexists(self.destination):
            self._aside.rename(self.destination)
            self._refuse_existing()


def partial_of(destination: Path) -> Path:
    """The hidden sibling in which `destination` is prepared."""
    return destination.parent / f".{destination.name}.partial"


def _is_no_verdict(error: BaseException) -> bool:
    """Whether a later run of the same plan may succeed: an interrupt, a full disk, an I/O error."""
    return not isinstance(error, Exception) or (isinstance(error, OSError) and not isinstance(error, TaskVecError))


def _line(value: Any) -> str:
    """A line of the journal: the hash of a JSON text, and the text."""
    text = json.dumps(value)
    return f"{hash_of(text.encode())} {text}\n"


def _journal_lines(path: Path) -> list[Any]:
    """The lines up to the first that is not as it was written: a kill or a power cut may have damaged the rest."""
    lines: list[Any] = []
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text("utf-8").splitlines():
            digest, text = line.split(" ", 1)
            if hash_of(text.encode()) != digest:
                break
            lines.append(json.loads(text))
    return lines


def _finished_units(lines: Sequence[Any]) -> dict[tuple[str, str], tuple[list[Written], Any]]:
    return {(line["file"], line["unit"]): (written_from_json(line["parts"]), line["note"]) for line in lines}


def _exchange(new: Path, old: Path, aside: Path) -> None:
    """Swap two paths atomically where the system can (Linux renameat2), else by two renames."""
    at_cwd, exchange = -100, 2
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        renameat2 = getattr(libc, "renameat2", None)
        if renameat2 and renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
            return
    old.rename(aside)
    new.rename(old)
