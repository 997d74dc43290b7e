"""The task vector that a path, or a name in an expression, means on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskvec.checkpoint.kinds import what_is
from taskvec.errors import SpaceError

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.expression import Expression
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


def lookup(base: Checkpoint, paths: Mapping[str, str], library: str | None) -> Callable[[str], TaskVector]:
    """What a name in an expression means: those of --vectors, then of the store, then files.

    Raises:
        StoreError: no such store. The function raises UnknownName.
    """
    from taskvec.errors import UnknownName
    from taskvec.vector import TaskVector

    store = _open(library) if library is not None else None
    stored = store.names() if store is not None else []

    def find(name: str) -> TaskVector:
        if name in paths:
            return vector_of(paths[name], base)
        if store is not None and name in stored:
            vector: TaskVector = store[name]
            return vector
        if name.endswith(".safetensors") and Path(name).exists():
            return TaskVector.open(name, base=base)
        fact = f"no task vector named '{name}'."
        if "/" in name or name.endswith(".safetensors"):
            raise UnknownName(fact, "check the path.")
        if not paths and not stored:
            raise UnknownName(fact, f"say what it is: --vectors {name}=PATH, or --store LIBRARY.")
        raise UnknownName.among(fact, name, [*paths, *stored])

    return find


def _open(library: str) -> Any:
    from taskvec.store import Store

    return Store.open(library)


def check_negations(expression: Expression, paths: Mapping[str, str], library: str | None, *, force: bool) -> None:
    """Refuse to subtract a task that comes back from the basis of a store as something else.

    Raises:
        ParameterError: naming the task and its error (unless forced).
    """
    negated = [n for n, c in expression.coefficients().items() if c < 0.0 and n not in paths]
    if library is None or not negated:
        return
    from taskvec.basis.basis import check_negation

    store = _open(library)
    for name in negated:
        if name in store and store.is_recovered(name):
            check_negation(name, store.error(name), force=force)
