"""A folder that appears only when it is complete."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskvec.errors import DestinationError


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """Yields a path beside `folder` that is to be made a folder; it becomes `folder` when the block ends well.

    Raises:
        DestinationError: `folder` exists already.
    """
    if folder.exists():
        raise DestinationError(f"'{folder}' exists already.", "choose another folder or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        partial = Path(scratch) / folder.name
        yield partial
        partial.rename(folder)
