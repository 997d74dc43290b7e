"""`taskvec plan`: what a merge would do, tensor by tensor, what it would read, write and take; reads headers only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from taskvec.cli import _options as options
from taskvec.cli import _recipes as flags

app = typer.Typer(add_completion=False)


@app.command()
def plan(
    sources: flags.Sources = None,
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PATH", help="Check this destination and its disk, too.")
    ] = None,
    method: flags.Method = None,
    base: flags.Base = None,
    store: flags.Library = None,
    settings: flags.Settings = None,
    scale: flags.Scale = None,
    dialect: flags.Dialect = None,
    seed: flags.Seed = None,
    transforms: flags.Transforms = None,
    layout: flags.Layout = None,
    dtype: options.Dtype = None,
    shard_size: options.ShardSize = None,
    threads: options.Threads = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Say what `taskvec merge` would do with the same arguments, and refuse what would fail; writes nothing."""
    recipe = flags.recipe_of(
        sources,
        settings,
        method=method,
        base=base,
        store=store,
        scale=scale,
        dialect=dialect,
        seed=seed,
        transforms=transforms,
        layout=layout,
        dtype=dtype,
        shard_size=shard_size,
    )
    from taskvec.cli._console import show, show_json
    from taskvec.cli._merge_tables import plan_parts

    found = recipe.plan(output, force=force, threads=threads)
    if as_json:
        show_json(json.loads(found.to_json()))
    else:
        show(*plan_parts(found))
