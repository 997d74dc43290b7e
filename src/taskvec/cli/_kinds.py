"""What a path that a user typed is: a checkpoint, a task vector, a store or a LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taskvec.errors import SpaceError

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.vector import TaskVector


def what_is(text: str) -> tuple[str, Path]:
    """The kind ("checkpoint", "vector", "store", "adapter") and the local path of what `text` means.

    Raises:
        FormatError: no such path, and not a hub id.
    """
    from taskvec.checkpoint.open import is_adapter, is_path, locate

    if not is_path(text) and "+" in text:
        return "checkpoint", Path(text)
    path = locate(text)
    if is_adapter(path):
        return "adapter", path
    if is_store(path):
        return "store", path
    return ("vector" if is_vector(path) else "checkpoint"), path


def is_store(path: Path) -> bool:
    """Whether `path` is a store: its manifest says so (a checkpoint may have a manifest.json of another kind)."""
    manifest = path / "manifest.json"
    return manifest.is_file() and '"taskvec_store"' in manifest.read_text("utf-8", errors="replace")


def is_vector(path: Path) -> bool:
    """Whether `path` is a task-vector file, or a folder of such."""
    from taskvec.checkpoint.open import VECTOR_SUFFIX
    from taskvec.checkpoint.safetensors_file import read_header

    if path.is_dir():
        return any(path.glob(f"*{VECTOR_SUFFIX}"))
    if path.suffix != ".safetensors":
        return False
    return path.name.endswith(VECTOR_SUFFIX) or "taskvec_format" in read_header(path).metadata


def vector_of(text: str, base: Checkpoint) -> TaskVector:
    """The task vector that `text` names: a file or folder of one, a LoRA adapter, or a tuned checkpoint minus `base`.

    Raises:
        FormatError: no such path. SchemaError: it does not fit the base.
    """
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.vector import TaskVector

    kind, path = what_is(text)
    if kind == "checkpoint":
        vector: TaskVector = Checkpoint.open(text) - base
        return vector
    if kind == "store":
        raise SpaceError(f"'{text}' is a store, not a task vector.", "name one of its vectors: --store LIBRARY.")
    return TaskVector.open(path, base=base)
