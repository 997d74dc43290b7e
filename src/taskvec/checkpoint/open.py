"""From what a user types to a `Checkpoint`: a path, a hub id, or `base+adapter`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from taskvec.checkpoint.files import open_files
from taskvec.errors import FormatError

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint


def open_checkpoint(kind: type[Checkpoint], path: str | Path) -> Checkpoint:
    """Open an existing file or folder lazily.

    Raises:
        FormatError: nothing there, or nothing that holds weights.
    """
    local = Path(path)
    if local.exists():
        return kind(open_files(local))
    raise FormatError(f"'{path}' does not exist.", "check the path.")
