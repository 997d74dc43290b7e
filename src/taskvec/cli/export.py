"""`taskvec export`: a factored task vector as a LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskvec.cli import _options as options

app = typer.Typer(add_completion=False)


@app.command()
def export(
    vector: Annotated[str, typer.Argument(metavar="VECTOR", help="A task vector, e.g. of --codec tsv.")],
    *,
    output: options.Output,
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, metavar="R", help="Largest rank of a module; default: as it is kept.")
    ] = None,
    drop_others: Annotated[
        bool, options.flag("--drop-others", text="Leave out what LoRA cannot carry: biases, norms, bare parameters.")
    ] = False,
    embeddings: Annotated[
        list[str] | None,
        typer.Option(
            "--embeddings", metavar="PATTERN", help="Names of embeddings; default: *embed*, *wte.*, …; repeats."
        ),
    ] = None,
    transposed: Annotated[
        list[str] | None,
        typer.Option(
            "--transposed", metavar="PATTERN", help="Names of matrices stored (in, out), as in GPT-2; repeats."
        ),
    ] = None,
    base_name: Annotated[
        str | None, typer.Option("--base-name", metavar="ID", help="What the adapter says its base is.")
    ] = None,
    threads: options.Threads = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write VECTOR as a LoRA adapter that PEFT loads: base + adapter is base + vector."""
    from taskvec.adapters.writer import EMBEDDINGS, save_lora
    from taskvec.cli._progress import Working
    from taskvec.vector import TaskVector

    opened = TaskVector.open(vector)
    with Working("exporting", f"'{output}'", kept=None, quiet=quiet or as_json) as working:
        save_lora(
            opened,
            output,
            rank=rank,
            drop_others=drop_others,
            embeddings=embeddings or EMBEDDINGS,
            transposed=transposed or (),
            base_name=base_name,
            force=force,
            threads=threads,
            progress=working,
        )
    _report(output, quiet=quiet, as_json=as_json)


def _report(output: Path, *, quiet: bool, as_json: bool) -> None:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import show, show_json
    from taskvec.cli._summaries import adapter_summary

    table = adapter_summary(output)
    if as_json:
        show_json(table)
    elif not quiet:
        show(*tables.adapter_parts(table))
