"""`taskvec demo`: fine-tune a real encoder on eight tasks, and add, negate, store and evaluate their task vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskvec.cli import _options as options

if TYPE_CHECKING:
    from rich.table import Table

    from taskvec.demo import DemoResult

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where everything goes.")] = Path(
        "demo"
    ),
    steps: Annotated[int, typer.Option("--steps", min=1, metavar="N", help="Fine-tuning steps a task.")] = 45,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Order of the training texts.")] = 0,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Run the whole flow on a real model, in minutes, and print one table; a second run reuses what is there."""
    import torch

    from taskvec.cli._console import say, show, show_json
    from taskvec.demo import run_demo
    from taskvec.tune import Settings

    if threads is not None:
        torch.set_num_threads(threads)
    silent = quiet or as_json
    settings = Settings(steps=steps, seed=seed)
    result = run_demo(output, settings=settings, say=lambda line: None if silent else say("", line))
    if as_json:
        show_json(json.loads(result.to_json()))
    elif not quiet:
        show("", _table(result), "", *result.size_lines(), "", f"report: {result.report}")


def _table(result: DemoResult) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title="test accuracy in percent", title_justify="left")
    table.add_column("model", no_wrap=True)
    for name in (*result.tasks, "mean"):
        table.add_column(name.replace("_", " "), justify="right", vertical="bottom", no_wrap=name == "mean")
    for row in result.table(errors=False):
        table.add_row(*row)
    return table
