"""The root of the command line. A verb is a public module beside this one that holds a `typer.Typer` named `app`.

Adding a verb is adding its file. Verb modules import nothing heavy at their top: `--help` imports them all.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Annotated, Any, final

import typer
from typer.core import TyperGroup

from taskvec.cli._failures import guarded
from taskvec.cli._help import light_help_option

# The order in which help lists them; what is not here comes after, by name.
_ORDER = (
    *("info", "extract", "apply", "export", "merge", "methods", "plan", "store"),
    *("basis", "analyze", "tune", "eval", "bench", "demo"),
)


def verbs() -> list[str]:
    """The names of all verbs, in the order of the help."""
    found = [m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_")]
    return sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


@final
class Verbs(TyperGroup):
    """A group whose commands are the verb modules, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """See the base class."""
        return verbs()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """See the base class."""
        if cmd_name not in verbs():
            return None
        command = typer.main.get_command(importlib.import_module(f"taskvec.cli.{cmd_name}").app)
        command.name = cmd_name
        return command

    def get_help_option(self, ctx: Any) -> Any:
        """See the base class."""
        return light_help_option(TyperGroup.get_help_option(self, ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See the base class, which suggests from `commands` when a name is unknown."""
        commands: Any = dict.fromkeys(verbs())
        self.commands = commands
        return TyperGroup.resolve_command(self, ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """See the base class; what taskvec raises on purpose becomes a message and an exit code."""
        return guarded(lambda: TyperGroup.invoke(self, ctx))


app = typer.Typer(
    cls=Verbs,
    add_completion=False,  # its options, not given, would be None: see `_help`
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from taskvec import __version__

        typer.echo(f"taskvec {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, metavar="", help="Print the version and stop."),
    ] = False,
) -> None:
    """Task vectors: extract, store, add and subtract fine-tuned checkpoints, exactly and out of core."""


def main() -> None:
    """Run the command line on the arguments of this process; exits with 0 (done), 1 (refused), 2 (usage) or 130."""
    # taskvec's workers are its threads; those that NumPy's BLAS would start with it only spin.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app(prog_name="taskvec")
