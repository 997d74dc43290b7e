"""The options of `merge` and `plan`, and the recipe that they mean: a file, or a method and its inputs."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskvec.cli import _options as options

if TYPE_CHECKING:
    from taskvec.recipes import Recipe

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE.yml | TUNED",
        help="A recipe; or, with --method, the inputs: models, task vectors, LoRA adapters, as PATH or NAME=PATH.",
    ),
]
Method = Annotated[str | None, typer.Option("--method", metavar="NAME", help="How to merge; see `taskvec methods`.")]
Base = Annotated[str | None, typer.Option("--base", metavar="BASE", help="The model that the inputs start from.")]
Library = Annotated[str | None, typer.Option("--store", metavar="LIBRARY", help="A store; inputs may be its names.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A parameter, written as in a recipe: density=0.2; repeats."),
]
Scale = Annotated[
    float | None, typer.Option("--scale", metavar="NUMBER", help="Multiplies the merged vector (default 1).")
]
Dialect = Annotated[
    str | None, typer.Option("--dialect", metavar="NAME", help="Whose definition: paper (default), mergekit, peft.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, metavar="N", help="For methods that draw (default 0).")]
Transforms = Annotated[
    list[str] | None,
    typer.Option(
        "--transform", metavar="NAME", help="Applied to the inputs first: NAME, or 'NAME: {KEY: VALUE}'; repeats."
    ),
]
Layout = Annotated[str | None, typer.Option("--layout", metavar="FILE", help="A YAML file with roles and splits.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Where the method runs: cpu (default), cuda, cuda:1.")
]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


def with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the arguments of `recipe_of` before its own; it is called with the recipe that they mean."""
    shared = inspect.signature(recipe_of).parameters
    own = list(inspect.signature(command).parameters.values())[1:]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        recipe = recipe_of(**{name: given.pop(name) for name in shared})
        command(recipe, **given)

    parameters = [*shared.values(), *own]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def recipe_of(
    sources: Sources = None,
    *,
    method: Method = None,
    base: Base = None,
    store: Library = None,
    settings: Settings = None,
    scale: Scale = None,
    dialect: Dialect = None,
    seed: Seed = None,
    transforms: Transforms = None,
    layout: Layout = None,
    dtype: options.Dtype = None,
    shard_size: options.ShardSize = None,
    device: Device = None,
) -> "Recipe":
    """The recipe that arguments and options mean; options replace what a file says.

    Raises:
        typer.BadParameter: neither a recipe file nor a method with inputs.
        ParameterError: something that cannot be in a recipe.
    """
    from taskvec.recipes import Recipe

    given: dict[str, Any] = {
        "base": base,
        "store": store,
        "scale": scale,
        "dialect": dialect,
        "seed": seed,
        "layout": layout,
    }
    given |= {"transforms": transforms, "dtype": dtype, "shard_size": shard_size, "device": device}
    fields = {key: value for key, value in given.items() if value not in (None, [])}
    parameters = _parameters(settings)
    if "transforms" in fields:
        fields["transforms"] = [_transform(text) for text in fields["transforms"]]
    if method is not None:
        inputs = _inputs(sources or [])
        return Recipe.from_data({"method": method, **fields, "inputs": inputs, "parameters": parameters})
    recipe = Recipe.read(_file(sources))
    local = {k: _here(v) for k, v in fields.items() if k in ("base", "store", "layout")}
    table = recipe.to_dict().get("parameters", {}) | parameters
    return recipe.changed(**fields | local, parameters=table) if fields or parameters else recipe


def _file(sources: Sequence[str] | None) -> str:
    if not sources or len(sources) != 1:
        raise typer.BadParameter(
            "give one recipe file, or --method with --base and the inputs.", param_hint="RECIPE.yml"
        )
    return sources[0]


def _here(path: str) -> str:
    """A path on the command line starts from here, not from the recipe's folder."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def _inputs(sources: Sequence[str]) -> Any:
    """PATH or NAME=PATH."""
    if not sources:
        raise typer.BadParameter("--method needs at least one input.", param_hint="TUNED...")
    if not any(_is_named(text) for text in sources):
        return list(sources)
    return named_inputs(sources)


def named_inputs(sources: Sequence[str]) -> dict[str, str]:
    """A table from texts PATH or NAME=PATH; names that are not given are the stems.

    Raises:
        typer.BadParameter: two inputs have one name.
    """
    from taskvec.recipes.sources import stem_of

    named: dict[str, str] = {}
    for text in sources:
        name, path = text.split("=", 1) if _is_named(text) else (stem_of(text), text)
        if name in named:
            raise typer.BadParameter(f"two inputs are named '{name}'; write NAME=PATH.")
        named[name] = path
    return named


def _is_named(text: str) -> bool:
    name, equals, path = text.partition("=")
    return bool(equals and path and _NAME.fullmatch(name)) and not Path(text).exists()


def _transform(text: str) -> Any:
    """A name, or a table of a name and its parameters, written as in a recipe."""
    from taskvec.recipes import Document

    return Document.parse(text, "--transform").data


def _parameters(settings: Sequence[str] | None) -> Mapping[str, Any]:
    from taskvec.recipes import Document

    parameters: dict[str, Any] = {}
    for text in settings or ():
        key, value = options.pair("--set", text)
        if key in parameters:
            raise typer.BadParameter(f"'{key}' is given twice.", param_hint="--set")
        parameters[key] = Document.parse(value, f"--set {key}").data
    return parameters
