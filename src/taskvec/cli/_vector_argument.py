"""The task vector that a path on the command line means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskvec.checkpoint.kinds import what_is
from taskvec.errors import SpaceError

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.vector import TaskVector


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
