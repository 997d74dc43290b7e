"""Help without pydantic: a third of the time and of the memory of `taskvec VERB --help`."""

from __future__ import annotations

from typing import Any, final

from typer.core import TyperGroup


def light_help_option(option: Any) -> Any:
    """The `--help` of a group with the default False: typer imports pydantic to find out that None is no bool."""
    if option is not None:
        option.default = False
    return option


@final
class LightGroup(TyperGroup):
    """A group of commands whose help is light."""

    def get_help_option(self, ctx: Any) -> Any:
        """See the base class."""
        return light_help_option(TyperGroup.get_help_option(self, ctx))
