"""An expression may begin with a minus, which a command line would take for an option."""

from __future__ import annotations

from typing import Any, final

from typer.core import TyperCommand


@final
class ExpressionCommand(TyperCommand):
    """A command in which a word of one dash and more than one letter is an argument: `-toxic`, `-0.5*math`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See the base class; such words get a space in front, which means nothing in an expression."""
        takes_value = {o for p in self.params if not getattr(p, "is_flag", True) for o in p.opts}
        shielded: list[str] = []
        after_option = False
        for at, word in enumerate(args):
            if word == "--":
                return TyperCommand.parse_args(self, ctx, shielded + args[at:])
            minus = word.startswith("-") and not word.startswith("--") and len(word) > 2 and not after_option
            shielded.append(f" {word}" if minus else word)
            after_option = not after_option and word in takes_value
        return TyperCommand.parse_args(self, ctx, shielded)
