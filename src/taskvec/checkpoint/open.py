"""From what a user types to a `Checkpoint`: a path, a hub id, or `base+adapter`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taskvec.checkpoint.files import open_files
from taskvec.checkpoint.hub import hub_folder, is_hub_id
from taskvec.errors import FormatError, SpaceError

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint

ADAPTER_CONFIG = "adapter_config.json"
VECTOR_SUFFIX = ".tv.safetensors"


def open_checkpoint(kind: type[Checkpoint], path: str | Path) -> Checkpoint:
    """Open a file, a folder, a hub id or `base+adapter` lazily; what exists as a path is that path.

    Raises:
        FormatError: nothing there, or nothing that holds weights.
        SpaceError: a displacement (an adapter, a task vector), not a point.
    """
    text = str(path)
    if not is_path(text) and "+" in text:
        base, adapter = _split(text)
        return kind.adapt(_open_point(kind, locate(base)), locate(adapter))
    return _open_point(kind, locate(text))


def locate(text: str | Path) -> Path:
    """The local file or folder that `text` means: itself when it exists, else the snapshot of a hub id.

    Raises:
        FormatError: no such path, and not (reachable as) a hub id.
    """
    if is_path(str(text)):
        return Path(text)
    if isinstance(text, str) and is_hub_id(text):
        return hub_folder(text)
    raise FormatError(f"'{text}' does not exist.", "check the path; a hub id is org/name or org/name@revision.")


def is_path(text: str) -> bool:
    """Whether `text` names something that exists."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or not a name that a file system can hold
        return False


def is_adapter(path: Path) -> bool:
    """Whether `path` is the folder of a PEFT adapter."""
    return (path / ADAPTER_CONFIG).is_file()


def _split(text: str) -> tuple[str, str]:
    """The base and the adapter of `base+adapter`, where either may contain a + of its own if it exists."""
    cuts = [(text[:at], text[at + 1 :]) for at, c in enumerate(text) if c == "+"]
    known = [cut for cut in cuts if all(is_path(part) or is_hub_id(part) for part in cut)]
    if len(known) == 1:
        return known[0]
    if known:
        shown = ", ".join(f"'{base}' + '{adapter}'" for base, adapter in known)
        raise FormatError(f"'{text}' can be read as {shown}.", "open the base, then add TaskVector.open(adapter).")
    base, adapter = cuts[-1] if is_path(cuts[-1][0]) else cuts[0]
    missing = adapter if is_path(base) or is_hub_id(base) else base
    raise FormatError(f"'{missing}' (of '{text}') does not exist.", "check both paths.")


def _open_point(kind: type[Checkpoint], path: Path) -> Checkpoint:
    if path.name.endswith(VECTOR_SUFFIX):
        raise SpaceError(f"'{path}' is a task vector, not a checkpoint.", "open it with TaskVector.open(...).")
    if is_adapter(path):
        raise SpaceError(
            f"'{path}' is a LoRA adapter: a displacement, not a checkpoint.",
            f"write 'base+{path}', or open it with TaskVector.open('{path}', base=base).",
        )
    return kind(open_files(path))
