"""An expression may begin with a minus, which a command line would take for an option."""

from __future__ import annotations

from typing import Any, final

from typer.core import TyperCommand


@final
class ExpressionCommand(TyperCommand):
    """A command in which a word with one dash that is no option is an argument: `-toxic`, `-0.5*math`, `-m`.

    Options of one letter stand alone, so that `-outlier` is not `-o utlier`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See the base class; such words get a space in front, which means nothing in an expression."""
        options = {o for p in self.params for o in p.opts} | {*self.get_help_option_names(ctx), "-"}
        takes_value = {o for p in self.params if not getattr(p, "is_flag", True) for o in p.opts}
        shielded: list[str] = []
        after_option = False
        for at, word in enumerate(args):
            if word == "--":
                return TyperCommand.parse_args(self, ctx, shielded + args[at:])
            dash = word.startswith("-") and not word.startswith("--") and word not in options
            shielded.append(f" {word}" if dash and not after_option else word)
            after_option = not after_option and word in takes_value
        return TyperCommand.parse_args(self, ctx, shielded)
