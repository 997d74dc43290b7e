"""`TaskVector.open` and `TaskVector.save`: what the vector room left to this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taskvec.adapters.reader import open_adapter
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.open import is_adapter, locate
from taskvec.codecs._file import FileDelta
from taskvec.vector import TaskVector


def open_vector(source: str | Path, base: Checkpoint | None) -> TaskVector:
    """A task-vector file or folder, or a LoRA adapter (also by hub id), as a `TaskVector`; reads headers only.

    Raises:
        FormatError: nothing there, not a task vector, or a damaged one.
    """
    path = locate(source)
    leaf = open_adapter(path, base) if is_adapter(path) else FileDelta(path)
    return TaskVector(((1.0, leaf),))


def write_vector(vector: TaskVector, path: Path, **options: Any) -> Path:
    """See `taskvec.codecs._write.save_vector`; what only writing needs is imported when something is written."""
    from taskvec.codecs._write import save_vector

    return save_vector(vector, path, **options)


TaskVector.reader = staticmethod(open_vector)
TaskVector.writer = staticmethod(write_vector)
