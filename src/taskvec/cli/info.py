"""`taskvec info`: what a checkpoint, task vector, store or adapter is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from taskvec.cli import _options as options

app = typer.Typer(add_completion=False)


@app.command()
def info(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint, hub id, task vector, store or adapter.")],
    fingerprint: Annotated[
        bool, options.flag("--fingerprint", text="Compute a checkpoint's fingerprint: reads every tensor once.")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Say what is in a file or folder; reads headers only."""
    from taskvec.cli._summaries import summary_of

    table = summary_of(path)
    if fingerprint and table["kind"] == "checkpoint":
        from taskvec.checkpoint.checkpoint import Checkpoint
        from taskvec.cli._progress import hash_all

        table["fingerprint"] = hash_all(Checkpoint.open(path), quiet=quiet or as_json)
    _print(table, as_json=as_json)


def _print(table: dict[str, Any], *, as_json: bool) -> None:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import show, show_json

    parts = {
        "checkpoint": tables.checkpoint_parts,
        "vector": tables.vector_parts,
        "adapter": tables.adapter_parts,
        "store": tables.store_parts,
    }
    if as_json:
        show_json(table)
    else:
        show(*parts[table["kind"]](table))
