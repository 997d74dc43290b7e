"""`taskvec merge`: several fine-tunes become one model, from a recipe or from flags."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from taskvec.cli import _options as options
from taskvec.cli._recipes import with_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskvec.recipes import Recipe

app = typer.Typer(add_completion=False)


@app.command()
@with_recipe
def merge(
    recipe: "Recipe",
    *,
    output: options.Output,
    threads: options.Threads = None,
    allow_nonfinite: options.AllowNonfinite = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the merge that RECIPE.yml describes, or that of TUNED... by --method, as a model.

    With a recipe, options replace what it says. `taskvec plan` takes the same arguments and only says what would be.
    """
    options = {"threads": threads, "allow_nonfinite": allow_nonfinite, "force": force}
    notes = _written(recipe, output, options, quiet=quiet or as_json)
    _report(recipe, output, notes, quiet=quiet, as_json=as_json)


def _written(recipe: "Recipe", output: Path, options: "Mapping[str, Any]", *, quiet: bool) -> "Mapping[str, Any]":
    """Merge; returns what the method reported of each matrix."""
    from taskvec.cli._progress import Working, partial_of
    from taskvec.engine.merge import notes_of

    kept = partial_of(output)
    with Working("merging", f"'{output}'", kept=kept, quiet=quiet, last="hashing the inputs") as working:
        merged = recipe.build(threads=options["threads"], force=options["force"])
        recipe.write(merged, output, progress=working, **options)
    return notes_of(merged)


def _report(recipe: "Recipe", output: Path, notes: "Mapping[str, Any]", *, quiet: bool, as_json: bool) -> None:
    from taskvec.cli._console import show, show_json
    from taskvec.cli._merge_tables import merged_parts
    from taskvec.cli._summaries import checkpoint_summary

    table = checkpoint_summary(str(output)) | {"method": recipe.method, "inputs": dict(recipe.inputs)}
    if notes:
        table["notes"] = dict(notes)
    if as_json:
        show_json(table)
    elif not quiet:
        show(*merged_parts(table, recipe))
