"""`taskvec plan`: what a merge would do, tensor by tensor, what it would read, write and take; reads headers only."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskvec.cli import _options as options
from taskvec.cli._recipes import with_recipe

if TYPE_CHECKING:
    from taskvec.recipes import Recipe

app = typer.Typer(add_completion=False)


@app.command()
@with_recipe
def plan(
    recipe: "Recipe",
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PATH", help="Check this destination and its disk, too.")
    ] = None,
    threads: options.Threads = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Say what `taskvec merge` would do with the same arguments, and refuse what would fail; writes nothing."""
    from taskvec.cli._console import show, show_json
    from taskvec.cli._merge_tables import plan_parts

    found = recipe.plan(output, force=force, threads=threads)
    if as_json:
        show_json(json.loads(found.to_json()))
    else:
        show(*plan_parts(found))
