"""What an input of a recipe is: a model, a task vector, a LoRA adapter or an entry of a store; opened lazily."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, final

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.hub import is_hub_id
from taskvec.checkpoint.kinds import what_is
from taskvec.checkpoint.open import VECTOR_SUFFIX, is_path
from taskvec.errors import ParameterError, SchemaError, SpaceError
from taskvec.recipes.document import nearest
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    from taskvec.store import Store


def stem_of(source: str) -> str:
    """The name that a source gives itself: its file or folder name without suffix, or the hub id's last part."""
    last = PurePosixPath(source.rstrip("/")).name
    if is_hub_id(source) and not is_path(source):
        last = last.partition("@")[0]
    for suffix in (VECTOR_SUFFIX, ".safetensors", ".bin", ".pt", ".pth"):
        if last.endswith(suffix) and last != suffix:
            return last.removesuffix(suffix)
    return last


@final
@dataclass(frozen=True, slots=True)
class Sources:
    """Opens the base and the inputs of one recipe; relative paths start from `folder`."""

    folder: Path | None
    base: Checkpoint | None
    store: Store | None

    @classmethod
    def open(cls, folder: Path | None, base: str | None, store: str | None) -> Sources:
        """Open the base and the store; reads headers only.

        Raises:
            FormatError: nothing there that holds weights. StoreError: no store there.
        """
        from taskvec.store import Store

        point = None if base is None else Checkpoint.open(_placed(folder, base))
        return cls(folder, point, None if store is None else Store.open(_placed(folder, store)))

    def vector(self, name: str, source: str) -> TaskVector:
        """The displacement that `source` is, measured from the base.

        Raises:
            ParameterError: nothing that can be found. SchemaError: it does not fit the base.
        """
        found = self._found(name, source)
        if isinstance(found, TaskVector):
            return found
        if self.base is None:
            raise ParameterError(f"the input '{name}' is a model ('{source}'), and there is no base.", "give the base.")
        try:
            vector: TaskVector = found - self.base
        except SchemaError as error:
            raise SchemaError(f"the input '{name}' ('{source}'): {error.fact}", error.fix) from error
        return vector

    def point(self, name: str, source: str) -> Checkpoint:
        """The point that `source` is; displacements start from the base.

        Raises:
            ParameterError: a displacement without a base, or nothing that can be found.
        """
        found = self._found(name, source)
        if isinstance(found, Checkpoint):
            return found
        if self.base is None:
            fact = f"the input '{name}' ('{source}') is a displacement, and there is no base for it to start from."
            raise ParameterError(fact, "give the base, or a model as the input.")
        return self.base + found

    def _found(self, name: str, source: str) -> TaskVector | Checkpoint:
        path = _placed(self.folder, source)
        stored = self.store is not None and source in self.store
        if stored and is_path(path):
            fact = f"the input '{name}': '{source}' is both a name in the store and a path."
            raise ParameterError(fact, f"write './{source}' for the path, or rename it.")
        if stored and self.store is not None:
            return self.store[source]
        if not is_path(path) and not is_hub_id(source) and "+" not in source:
            raise self._missing(name, source)
        return self._opened(name, path)

    def _opened(self, name: str, text: str) -> TaskVector | Checkpoint:
        kind, path = what_is(text)
        if kind == "store":
            raise SpaceError(f"the input '{name}' ('{text}') is a store.", "write store: and name one of its vectors.")
        return Checkpoint.open(text) if kind == "checkpoint" else TaskVector.open(path, base=self.base)

    def _missing(self, name: str, source: str) -> ParameterError:
        fact = f"the input '{name}': there is no '{source}'"
        if self.store is not None:
            return ParameterError(f"{fact}, neither as a path nor in the store.", nearest(source, self.store.names()))
        where = f" in '{self.folder}'" if self.folder is not None and not Path(source).is_absolute() else ""
        fix = "check the path; a hub id is org/name, a name in a store needs store:."
        return ParameterError(f"{fact}{where}.", fix)


def _placed(folder: Path | None, source: str) -> str:
    """A source as a path from here: relative ones start from the recipe's folder; hub ids stay."""
    if folder is None or Path(source).is_absolute():
        return source
    placed = str(folder / source)
    if is_path(placed):
        return placed
    if not is_path(source) and "+" in source:  # base+adapter
        return "+".join(_placed(folder, part) for part in source.split("+"))
    return source if is_hub_id(source) and not is_path(source) else placed


def placed(folder: Path | None, source: str) -> Path:
    """A file that a recipe names, as a path from here."""
    return Path(source) if folder is None else folder / source
