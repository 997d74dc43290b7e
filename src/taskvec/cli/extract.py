"""`taskvec extract`: a tuned model minus its base, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskvec.cli import _options as options

app = typer.Typer(add_completion=False)


@app.command()
def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model before: a path or a hub id.")],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The model after, or a LoRA adapter of BASE.")],
    *,
    output: options.Output,
    codec: options.Codec = "dense",
    density: options.Density = None,
    settings: options.Set = None,
    dtype: options.DeltaDtype = None,
    shard_size: options.ShardSize = None,
    threads: options.Threads = None,
    allow_nonfinite: options.AllowNonfinite = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the task vector TUNED - BASE to a file; by default it restores TUNED bit for bit."""
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.cli._progress import Working, partial_of
    from taskvec.cli._vector_argument import vector_of

    parameters = options.parameters(settings, density=density, dtype=dtype)
    _check_name(output, sharded=shard_size is not None)
    vector = vector_of(tuned, Checkpoint.open(base))
    kept = partial_of(output)
    with Working("extracting", f"'{output}'", kept=kept, quiet=quiet or as_json, last="hashing the base") as working:
        vector.save(
            output,
            codec=codec,
            force=force,
            threads=threads,
            shard_size=shard_size,
            allow_nonfinite=allow_nonfinite,
            progress=working,
            **parameters,
        )
    _report(output, quiet=quiet, as_json=as_json)


def _check_name(output: Path, *, sharded: bool) -> None:
    from taskvec.checkpoint.open import VECTOR_SUFFIX
    from taskvec.errors import ParameterError

    if not sharded and not output.name.endswith(VECTOR_SUFFIX):
        stem = output.name.removesuffix(".safetensors")
        raise ParameterError(
            f"'{output}' does not end in '{VECTOR_SUFFIX}', as the file of a task vector must.",
            f"write -o '{output.with_name(stem + VECTOR_SUFFIX)}'.",
        )


def _report(output: Path, *, quiet: bool, as_json: bool) -> None:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import show, show_json
    from taskvec.cli._summaries import vector_summary

    table = vector_summary(output)
    if as_json:
        show_json(table)
    elif not quiet:
        show(*tables.vector_parts(table)[:2])
