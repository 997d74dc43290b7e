"""The task vector that a path, or a name in an expression, means on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from taskvec.checkpoint.kinds import what_is
from taskvec.errors import SpaceError

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.store import Store
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


@final
@dataclass(frozen=True, slots=True)
class Names:
    """What a name in an expression means: one of `paths` (--vectors), then of the store, then a file.

    `rebase` takes vectors that were cut from another base, too.
    """

    base: Checkpoint
    paths: Mapping[str, str]
    store: Store | None
    rebase: bool

    @classmethod
    def of(cls, base: Checkpoint, paths: Mapping[str, str], library: str | None, *, rebase: bool = False) -> Names:
        """The names of --vectors and of the store at `library`.

        Raises:
            StoreError: no such store.
        """
        from taskvec.store import Store

        return cls(base, paths, None if library is None else Store.open(library), rebase)

    def __call__(self, name: str) -> TaskVector:
        """The vector `name`.

        Raises:
            UnknownName: there is none.
        """
        found = self._found(name)
        return found.rebased() if self.rebase else found

    def check_negation(self, name: str, *, force: bool = False) -> None:
        """Refuse what the store refuses to have subtracted."""
        if self.store is not None and name not in self.paths:
            self.store.check_negation(name, force=force)

    def _found(self, name: str) -> TaskVector:
        from taskvec.errors import UnknownName
        from taskvec.vector import TaskVector

        if name in self.paths:
            return vector_of(self.paths[name], self.base)
        if self.store is not None and name in self.store:
            return self.store[name]
        if name.endswith(".safetensors") and Path(name).exists():
            return TaskVector.open(name, base=self.base)
        stored = self.store.names() if self.store is not None else []
        fact = f"no task vector named '{name}'."
        if "/" in name or name.endswith(".safetensors"):
            raise UnknownName(fact, "check the path.")
        if not self.paths and not stored:
            raise UnknownName(fact, f"say what it is: --vectors {name}=PATH, or --store LIBRARY.")
        raise UnknownName.among(fact, name, [*self.paths, *stored])
