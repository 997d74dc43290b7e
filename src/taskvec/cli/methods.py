"""`taskvec methods`: which merge methods there are, and all that is declared about one."""

from __future__ import annotations

from typing import Annotated

import typer

from taskvec.cli import _options as options

app = typer.Typer(add_completion=False)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One method; default: list all.")] = None,
    *,
    as_json: options.Json = False,
) -> None:
    """List the merge methods; or show one: formula, source, parameters, laws, what it needs and costs."""
    from taskvec import methods as registry
    from taskvec.cli._console import show, show_json
    from taskvec.cli._merge_tables import method_parts, methods_parts
    from taskvec.methods._describe import describe

    if name is not None:
        table = describe(registry.get(name))
        show_json(table) if as_json else show(*method_parts(table))
        return
    tables = [describe(registry.get(n)) for n in registry.names()]
    show_json({"methods": tables}) if as_json else show(*methods_parts(tables))
