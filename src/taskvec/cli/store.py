"""`taskvec store`: a library of task vectors of one base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskvec.cli import _options as options
from taskvec.cli._help import LightGroup

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.store import Store, StoreCheck

app = typer.Typer(
    cls=LightGroup, add_completion=False, no_args_is_help=True, help="Keep task vectors of one base in a folder."
)

Library = Annotated[Path, typer.Argument(metavar="LIBRARY", help="The store's folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The vector's name.")]


@app.command()
def create(
    library: Library,
    *,
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="The model that all its vectors start from.")],
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Make an empty store for vectors of BASE, which is read once."""
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.cli._progress import hash_all
    from taskvec.store import Store

    point = Checkpoint.open(base)
    hash_all(point, quiet=quiet or as_json)
    Store.create(library, base=point)
    _show(library, quiet=quiet, as_json=as_json)


@app.command()
def add(
    library: Library,
    name: Name,
    vector: Annotated[
        str,
        typer.Argument(metavar="VECTOR-OR-TUNED", help="A task vector, a LoRA adapter or (with --base) a tuned model."),
    ],
    *,
    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="What a tuned model is cut from.")] = None,
    codec: options.Codec = "dense",
    density: options.Density = None,
    settings: options.Set = None,
    dtype: options.DeltaDtype = None,
    threads: options.Threads = None,
    allow_nonfinite: options.AllowNonfinite = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Add a vector under NAME."""
    from taskvec.cli._progress import Working

    parameters = options.parameters(settings, density=density, dtype=dtype)
    store, content = _open_for(library, vector, base)
    what, kept = f"'{name}' in '{library}'", library / ".incoming"
    with Working("adding", what, kept=kept, quiet=quiet or as_json, last="hashing") as working:
        store.add(
            name,
            content,
            codec=codec,
            force=force,
            threads=threads,
            allow_nonfinite=allow_nonfinite,
            progress=working,
            **parameters,
        )
    if as_json or not quiet:
        _show_vector(library, name, as_json=as_json)


def _open_for(library: Path, vector: str, base: str | None) -> tuple[Store, Any]:
    """The store, and what is to be added to it."""
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.checkpoint.kinds import what_is
    from taskvec.cli._vector_argument import vector_of
    from taskvec.errors import ParameterError
    from taskvec.store import Store
    from taskvec.vector import TaskVector

    point: Checkpoint | None = Checkpoint.open(base) if base is not None else None
    store = Store.open(library, base=point)
    kind, path = what_is(vector)
    if point is not None:
        return store, vector_of(vector, point)
    if kind == "checkpoint":
        raise ParameterError(f"'{vector}' is a tuned model, and its base is not given.", "add --base BASE.")
    return store, TaskVector.open(path)


@app.command("list")
def list_(library: Library, *, as_json: options.Json = False) -> None:
    """List the vectors with their sizes, beside dense float32 and bfloat16."""
    _show(library, quiet=False, as_json=as_json)


@app.command()
def show(
    library: Library,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One vector; default: the whole store.")] = None,
    *,
    as_json: options.Json = False,
) -> None:
    """Say what is in the store, or in one of its vectors."""
    if name is None:
        _show(library, quiet=False, as_json=as_json)
    else:
        _show_vector(library, name, as_json=as_json, largest=True)


@app.command()
def remove(library: Library, name: Name, *, quiet: options.Quiet = False, as_json: options.Json = False) -> None:
    """Remove a vector and its file."""
    from taskvec.store import Store

    Store.open(library).remove(name)
    _show(library, quiet=quiet, as_json=as_json)


@app.command()
def verify(library: Library, *, quiet: options.Quiet = False, as_json: options.Json = False) -> None:
    """Read every byte and compare it with its hash; exits with 1 when something is damaged."""
    from taskvec.cli._console import show_json
    from taskvec.store import Store

    check = Store.open(library).verify()
    if as_json:
        import json

        show_json({"path": str(library), **json.loads(check.to_json())})
    elif not quiet:
        _show_check(library, check)
    if not check.ok:
        raise typer.Exit(1)


def _show_check(library: Path, check: StoreCheck) -> None:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import counted, say, show

    leftovers = f"{counted(len(check.leftovers), 'file')} that no vector owns; ignored" if check.leftovers else None
    intact = counted(len(check.intact), "vector")
    show(tables.heading("store", str(library)), tables.rows([("intact", intact), ("leftovers", leftovers)]))
    for problem in check.problems:
        say("Damaged: ", problem.message, style="bold red")
    if check.problems:
        names = ", ".join(dict.fromkeys(f"'{p.name}'" for p in check.problems))
        say("Fix: ", f"add {names} again with --force, or remove it.", style="bold green")


def _show_vector(library: Path, name: str, *, as_json: bool, largest: bool = False) -> None:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import show, show_json
    from taskvec.cli._summaries import stored_summary

    table = stored_summary(library, name)
    if as_json:
        show_json(table)
    else:
        show(*tables.vector_parts(table)[: None if largest else 2])


def _show(library: Path, *, quiet: bool, as_json: bool) -> None:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import show, show_json
    from taskvec.cli._summaries import store_summary

    table = store_summary(library)
    if as_json:
        show_json(table)
    elif not quiet:
        show(*tables.store_parts(table))
