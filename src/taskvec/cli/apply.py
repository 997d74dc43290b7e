"""`taskvec apply`: a base moved by an expression of task vectors, as a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskvec.cli import _options as options
from taskvec.cli._expression_argument import ExpressionCommand

if TYPE_CHECKING:
    from taskvec.expression import Expression

app = typer.Typer(add_completion=False)


@app.command(cls=ExpressionCommand)
def apply(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The model to move: a path or a hub id.")],
    text: Annotated[str, typer.Argument(metavar="EXPR", help="E.g. '0.7*math + 0.3*(code - chat) - toxic'.")],
    *,
    output: options.Output,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            "--vectors",
            metavar="NAME=PATH",
            help="What a name means: a task vector, a LoRA adapter or a tuned model; repeats.",
        ),
    ] = None,
    store: Annotated[str | None, typer.Option("--store", metavar="LIBRARY", help="Where other names are.")] = None,
    dtype: options.Dtype = None,
    shard_size: options.ShardSize = None,
    threads: options.Threads = None,
    allow_nonfinite: options.AllowNonfinite = False,
    rebase: Annotated[
        bool, options.flag("--rebase", text="Apply vectors that were cut from another base, too.")
    ] = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write BASE + EXPR as a model, in the base's layout, dtype and with its side files.

    Names are looked up in --vectors, then in --store; `math.tv.safetensors` in backticks is a file.
    """
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.cli._progress import Working, partial_of
    from taskvec.cli._vector_argument import Names
    from taskvec.expression import evaluate, parse

    expression = parse(text.strip())
    paths = options.named("--vectors", vectors)
    point = Checkpoint.open(base)
    vector = evaluate(expression, Names.of(point, paths, store, rebase=rebase), force=force)
    kept = partial_of(output)
    with Working("writing", f"'{output}'", kept=kept, quiet=quiet or as_json, last="hashing the base") as working:
        (point + vector).save(
            output,
            dtype=dtype,
            shard_size=shard_size,
            threads=threads,
            allow_nonfinite=allow_nonfinite,
            force=force,
            progress=working,
            recipe={"expression": _without_folders(expression)},
        )
    _report(output, expression, as_json=as_json, quiet=quiet)


def _without_folders(expression: Expression) -> str:
    """The expression as a recipe keeps it: no path of this machine."""
    text = str(expression)
    for name in expression.names():
        text = text.replace(f"`{name}`", f"`{Path(name).name}`")
    return text


def _report(output: Path, expression: Expression, *, quiet: bool, as_json: bool) -> None:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import show, show_json
    from taskvec.cli._summaries import checkpoint_summary

    table: dict[str, Any] = checkpoint_summary(str(output))
    table |= {"expression": str(expression), "coefficients": expression.coefficients()}
    if as_json:
        show_json(table)
    elif not quiet:
        show(*tables.applied_parts(table))
