"""What lasts: files and renames that survive a power cut, locks that die with their process, disks that fill up."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskvec.errors import DestinationError

if TYPE_CHECKING:
    from filelock import FileLock

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def fsync(path: Path) -> None:
    """Force a file's data, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def start_writing(handle: int, begin: int, end: int) -> None:
    """Ask the system to begin writing a range of a file to the disk, without waiting; a hint, where it can be given.

    A file that is forced to the disk at its end then has little left to wait for.
    """
    call = _system_call("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    if call is not None and end > begin:
        call(handle, begin, end - begin, 2)  # SYNC_FILE_RANGE_WRITE


def preallocate(handle: int, size: int) -> None:
    """Ask the system for the blocks of a file of that size at once; a hint, where the file system can do it."""
    call = _system_call("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if call is not None and size > 0:
        call(handle, 0, 0, size)


@functools.cache
def _system_call(name: str, *types: Any) -> Callable[..., int] | None:
    call = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if call is not None:
        call.argtypes = types
    return call


def write_durably(path: Path, text: str) -> None:
    """Write a small text file and force it to the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, text: str) -> None:
    """Give `path` a new content in one step: whoever reads it sees the old text or the new one, also after a crash."""
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)  # of a killed process, or a link that somebody put there
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    fsync(path.parent)


def try_lock(path: Path) -> FileLock | None:
    """The advisory lock on the file `path`, in a folder that is made where it is missing; None while another holds it.

    The holder may remove the folder with the lock in it, so what was locked is compared with what lies there now.
    """
    from filelock import FileLock, Timeout

    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            path.touch()
            before = path.stat().st_ino
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except FileNotFoundError:  # the holder finished in between and took the folder with it
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == before:
                return lock
        lock.release()


def disk_error(error: OSError, path: Path, resume: str = "") -> DestinationError | None:
    """What to tell about an error of the disk on the way to `path`; None for any other kind of error."""
    if isinstance(error, DestinationError):
        return error
    if error.errno in _FULL:
        return DestinationError(
            f"the disk is full: '{path}' could not be written.", f"free some space. {resume}".strip()
        )
    if error.errno in _CLOSED:
        return DestinationError(f"'{path}' cannot be written: {error.strerror}.", "choose another place.")
    return None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the disk into a DestinationError that names `path`."""
    try:
        yield
    except OSError as error:
        told = disk_error(error, path)
        if told is None or told is error:
            raise
        raise told from error
