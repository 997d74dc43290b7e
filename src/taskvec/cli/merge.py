"""`taskvec merge`: several fine-tunes become one model, from a recipe or from flags."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from taskvec.cli import _options as options
from taskvec.cli._recipes import with_recipe

if TYPE_CHECKING:
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
    _write(recipe, output, threads=threads, allow_nonfinite=allow_nonfinite, force=force, quiet=quiet or as_json)
    _report(recipe, output, quiet=quiet, as_json=as_json)


def _write(
    recipe: "Recipe", output: Path, *, threads: int | None, allow_nonfinite: bool, force: bool, quiet: bool
) -> None:
    from taskvec.cli._progress import Working, partial_of

    kept = partial_of(output)
    with Working("merging", f"'{output}'", kept=kept, quiet=quiet, last="hashing the inputs") as working:
        recipe.run(output, threads=threads, allow_nonfinite=allow_nonfinite, force=force, progress=working)


def _report(recipe: "Recipe", output: Path, *, quiet: bool, as_json: bool) -> None:
    from taskvec.cli._console import show, show_json
    from taskvec.cli._merge_tables import merged_parts
    from taskvec.cli._summaries import checkpoint_summary

    table = checkpoint_summary(str(output)) | {"method": recipe.method, "inputs": dict(recipe.inputs)}
    if as_json:
        show_json(table)
    elif not quiet:
        show(*merged_parts(table, recipe))
