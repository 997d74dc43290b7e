"""`taskvec basis`: few vectors that stand for all those of a store, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskvec.cli import _options as options
from taskvec.cli._help import LightGroup

if TYPE_CHECKING:
    from taskvec.store import Store

app = typer.Typer(
    cls=LightGroup, add_completion=False, no_args_is_help=True, help="Keep few vectors that stand for many."
)

Library = Annotated[Path, typer.Argument(metavar="LIBRARY", help="The store's folder.")]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help="addition_exact (the sum of all tasks stays exact), pca, cluster, select, autoencoder or random.",
    ),
]
Solver = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the method, e.g. inner=ties; repeats."),
]
Normalize = Annotated[bool, options.flag("--normalize", text="Count each task's error relative to its norm.")]


@app.command()
def fit(
    library: Library,
    *,
    size: Annotated[
        int | None, typer.Option("--size", metavar="M", help="How many vectors (cluster: default by its eigenvalues).")
    ] = None,
    method: Method = "addition_exact",
    settings: Solver = None,
    normalize: Normalize = False,
    codec: options.Codec = "dense",
    density: options.Density = None,
    dtype: options.DeltaDtype = None,
    drop: Annotated[
        bool, options.flag("--drop", text="Remove the tasks' own files: tasks come from the basis from then on.")
    ] = False,
    threads: options.Threads = None,
    force: Annotated[bool, options.flag("--force", text="Replace a basis that is there.")] = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Make a basis of all vectors of LIBRARY and keep it there; their own files stay unless --drop is given."""
    from taskvec.cli._progress import Working
    from taskvec.store import Store

    given = options.parameters(settings)
    parameters = options.parameters(None, density=density, dtype=dtype)
    store, kept = Store.open(library), library / ".incoming"
    with Working("fitting", f"the basis of '{library}'", kept=kept, quiet=quiet or as_json) as working:
        store.fit_basis(
            size,
            method,
            codec=codec,
            parameters=parameters,
            drop=drop,
            force=force,
            normalize=normalize,
            threads=threads,
            progress=working,
            **given,
        )
    _show(store, quiet=quiet, as_json=as_json)


@app.command()
def show(
    library: Library,
    *,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="SIZE",
            help='Compare ways to keep all vectors in it: "25%" of float32, or "2GB".',
        ),
    ] = None,
    method: Method = "addition_exact",
    settings: Solver = None,
    normalize: Normalize = False,
    precisions: Annotated[
        str | None,
        typer.Option("--precisions", metavar="NAMES", help="Of float32, bfloat16, int8, int4, tsv (default: all)."),
    ] = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Show the basis of LIBRARY; without one, or with --budget, what one of each size would lose."""
    from taskvec.store import Store

    store = Store.open(library)
    if budget is not None:
        asked: dict[str, Any] = {"method": method, "normalize": normalize, **options.parameters(settings)}
        if precisions is not None:
            asked["precisions"] = [p.strip() for p in precisions.split(",")]
        _compare(store, budget, asked, threads=threads, quiet=quiet, as_json=as_json)
    elif store.has_basis():
        _show(store, quiet=quiet, as_json=as_json)
    else:
        _sizes(store, threads=threads, quiet=quiet, as_json=as_json)


def _show(store: Store, *, quiet: bool, as_json: bool) -> None:
    from taskvec.cli._basis_tables import basis_parts
    from taskvec.cli._console import show, show_json

    table = {"kind": "basis", "path": str(store.path), **store.basis().plain(), "own_files": store.own_files()}
    size = store.size()
    table |= {"bytes": size.total, "dense_float32": size.dense_float32, "dense_bfloat16": size.dense_bfloat16}
    if as_json:
        show_json(table)
    elif not quiet:
        show(*basis_parts(table))


def _compare(
    store: Store, budget: str, asked: dict[str, Any], *, threads: int | None, quiet: bool, as_json: bool
) -> None:
    from taskvec.basis import choose
    from taskvec.cli._basis_tables import choice_parts
    from taskvec.cli._console import show, show_json
    from taskvec.cli._progress import Working

    vectors = _vectors(store)
    with Working("measuring", "the comparison", kept=None, quiet=quiet or as_json) as working:
        found = choose(vectors, budget, threads=threads, progress=working, **asked)
    table = {"kind": "choice", "path": str(store.path), "method": asked["method"], **found.plain()}
    if as_json:
        show_json(table)
    elif not quiet:
        show(*choice_parts(table))


def _sizes(store: Store, *, threads: int | None, quiet: bool, as_json: bool) -> None:
    from taskvec.basis import certificate
    from taskvec.cli._basis_tables import sizes_parts
    from taskvec.cli._console import show, show_json
    from taskvec.cli._progress import Working
    from taskvec.gramian import Gram

    vectors = _vectors(store)
    with Working("reading", "the inner products", kept=None, quiet=quiet or as_json) as working:
        found = certificate(Gram.of(vectors, threads=threads, progress=working))
    table = {"kind": "sizes", "path": str(store.path), **found.plain()}
    if as_json:
        show_json(table)
    elif not quiet:
        show(*sizes_parts(table))


def _vectors(store: Store) -> dict[str, Any]:
    from taskvec.errors import StoreError

    if not len(store):
        raise StoreError(f"the store '{store.path}' has no vectors.", "add some first: taskvec store add.")
    return {name: store[name] for name in store.names()}
