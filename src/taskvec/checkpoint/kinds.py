"""What a path that a user typed is: a checkpoint, a task vector, a store or a LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from taskvec.checkpoint.open import VECTOR_SUFFIX, is_adapter, is_path, locate
from taskvec.checkpoint.safetensors_file import read_header

Kind = Literal["checkpoint", "vector", "store", "adapter"]


def what_is(text: str) -> tuple[Kind, Path]:
    """The kind of what `text` means, and its local path (`base+adapter` is a checkpoint and stays as it is).

    Raises:
        FormatError: no such path, and not a hub id.
    """
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
    if path.is_dir():
        return any(path.glob(f"*{VECTOR_SUFFIX}"))
    if path.suffix != ".safetensors":
        return False
    return path.name.endswith(VECTOR_SUFFIX) or "taskvec_format" in read_header(path).metadata
