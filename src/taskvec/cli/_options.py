"""Options that several verbs share, and what their texts mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def flag(*names: str, text: str) -> Any:
    """An option without a value (typer would show `<bool>` beside it)."""
    return typer.Option(*names, metavar="", help=text)


Force = Annotated[bool, flag("--force", text="Replace what is there, in one step.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="Workers (one a processor).")]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="DTYPE", help="Write floating-point tensors in this dtype, e.g. bfloat16."),
]
ShardSize = Annotated[str | None, typer.Option("--shard-size", metavar="SIZE", help="Largest data a file, e.g. 5GB.")]
AllowNonfinite = Annotated[bool, flag("--allow-nonfinite", text="Keep NaN and Inf instead of refusing them.")]
Quiet = Annotated[bool, flag("--quiet", "-q", text="Print nothing but errors.")]
Json = Annotated[bool, flag("--json", text="Print JSON and nothing else.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="Where to write; must not exist.")]
Codec = Annotated[
    str,
    typer.Option(
        "--codec", metavar="NAME", help="How deltas are stored: dense (exact), int8, int4, sparse, tsv, lora."
    ),
]
DeltaDtype = Annotated[
    str | None, typer.Option("--dtype", metavar="DTYPE", help="Store deltas in this dtype, not exactly.")
]
Density = Annotated[
    float | None, typer.Option("--density", metavar="FRACTION", help="Fraction kept, for codecs that drop.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A parameter by name, e.g. group=64; repeats."),
]


def pair(option: str, text: str) -> tuple[str, str]:
    """The two sides of KEY=VALUE.

    Raises:
        typer.BadParameter: no such sides.
    """
    key, equals, value = text.partition("=")
    if not (equals and key.strip() and value):
        raise typer.BadParameter(f"'{text}' is not of the form KEY=VALUE.", param_hint=option)
    return key.strip(), value


def scalar(text: str) -> Any:
    """What a YAML scalar means: a number, true, false, null or a string ("1e-3" is a number, too)."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, str):
        try:
            return float(value) if value[:1] in "+-.0123456789" else value
        except ValueError:
            return value
    if value is not None and not isinstance(value, int | float):
        raise typer.BadParameter(f"'{text}' is not a number, a word, true or false.", param_hint="--set")
    return value


def parameters(settings: Sequence[str] | None, **named: Any) -> dict[str, Any]:
    """The parameters given by --set and by options of their own (None: not given), each at most once.

    Raises:
        typer.BadParameter: one is given twice, or is not KEY=VALUE.
    """
    given: dict[str, Any] = {k: v for k, v in named.items() if v is not None}
    for text in settings or ():
        key, value = pair("--set", text)
        if key in given:
            raise typer.BadParameter(f"'{key}' is given twice.", param_hint="--set")
        given[key] = scalar(value)
    return given


def named(option: str, texts: Sequence[str] | None) -> Mapping[str, str]:
    """The table given by an option that repeats NAME=PATH.

    Raises:
        typer.BadParameter: a name is given twice, or a text is not NAME=PATH.
    """
    table: dict[str, str] = {}
    for text in texts or ():
        name, path = pair(option, text)
        if name in table:
            raise typer.BadParameter(f"'{name}' is given twice.", param_hint=option)
        table[name] = path
    return table
