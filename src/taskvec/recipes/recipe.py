"""`Recipe`: a merge as data, the same from YAML, from Python and from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic_core import ErrorDetails

from taskvec.errors import ParameterError
from taskvec.recipes import readers, values
from taskvec.recipes.document import Document, Marks, Where, kind_of, nearest, to_text
from taskvec.recipes.sources import stem_of
from taskvec.recipes.values import Misfit

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.recipes.plan import Plan

_WANTED = {
    "method": "the name of a merge method",
    "base": "a path or a hub id",
    "store": "the path of a store",
    "inputs": "a table NAME: SOURCE, or a list of sources",
    "parameters": "a table NAME: VALUE",
    "scale": "a finite number, or a table of them by tensor",
    "dialect": "the name of a dialect",
    "seed": "an integer from 0",
    "transforms": "a list of names, or of tables NAME: {PARAMETER: VALUE}",
    "dtype": "the name of a dtype, e.g. bfloat16",
    "shard_size": "a size like 5GB",
    "layout": "the path of a layout file",
    "device": "the name of a device, e.g. cuda",
}


@final
class Recipe(BaseModel):
    """A merge as data: a method, its inputs and parameters, and how the result is written. Immutable.

    Sources are model folders or files, hub ids, `*.tv.safetensors`, LoRA adapters, or names in the store, in any mix.
    Methods on vectors give base + scale · merge; methods on points the merge itself.

        Recipe.of("ties", {"math": "math", "code": "code.tv.safetensors"}, base="base", parameters={"density": 0.2})
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True)

    method: str
    base: str | None = None
    store: str | None = None
    inputs: Mapping[str, str]
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    scale: Any = None
    dialect: str | None = None
    seed: int | None = None
    transforms: tuple[Any, ...] = ()
    dtype: str | None = None
    shard_size: str | int | None = None
    layout: str | None = None
    device: str | None = None
    _folder: Path | None = PrivateAttr(None)
    _marks: Marks | None = PrivateAttr(None)

    @field_validator("base", "store", "layout", mode="before")
    @classmethod
    def _text(cls, given: Any) -> Any:
        return str(given) if isinstance(given, Path) else given

    @field_validator("transforms", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return tuple(_step(step, i) for i, step in enumerate(given)) if isinstance(given, list | tuple) else given

    @field_validator("inputs", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return _named_inputs(given)

    @field_validator("parameters", mode="before")
    @classmethod
    def _values(cls, given: Any, info: Any) -> Any:
        if not isinstance(given, Mapping):
            raise Misfit((), f"parameters must be {_WANTED['parameters']}, and is {kind_of(given)}", "write a table.")
        tasks = list(info.data.get("inputs", ()))
        try:
            return {str(k): values.parse(v, tasks, (str(k),)) for k, v in given.items()}
        except Misfit as error:
            raise Misfit(error.where, f"{error.where[0]}: {error.what}", error.fix, key=error.key) from error

    @field_validator("inputs", "parameters", mode="after")
    @classmethod
    def _frozen(cls, given: Mapping[str, Any]) -> Any:
        return MappingProxyType(dict(given))

    @field_validator("scale", mode="before")
    @classmethod
    def _scale(cls, given: Any, info: Any) -> Any:
        return None if given is None else values.parse_scale(given, list(info.data.get("inputs", ())))

    @field_validator("seed", mode="after")
    @classmethod
    def _in_range(cls, given: Any) -> Any:
        if given is not None and not 0 <= given < 2**63:
            raise Misfit((), f"seed must be {_WANTED['seed']}, and is {given}", "choose another.")
        return given

    @classmethod
    def of(cls, method: str, inputs: Any, **fields: Any) -> Recipe:
        """A recipe from Python; `inputs` is a mapping NAME → SOURCE or a sequence of sources.

        Raises:
            ParameterError: a field that is unknown or cannot be what it is.
        """
        return cls.from_data({"method": method, "inputs": inputs, **fields})

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a YAML file; its relative sources start from its folder.

        Raises:
            ParameterError: it says something that it cannot say; with line and column.
        """
        return readers.read_document(Document.read(path))

    @classmethod
    def from_data(cls, data: Any, *, marks: Marks | None = None, folder: Path | None = None) -> Recipe:
        """A recipe from plain data; `marks` say where they stand, `folder` where relative sources start.

        Raises:
            ParameterError: a field that is unknown, missing or cannot be what it is.
        """
        if not isinstance(data, Mapping):
            raise refusal(marks, (), f"a recipe is a table, not {kind_of(data)}", "write method: and inputs:.")
        try:
            recipe = cls.model_validate(dict(data))
        except ValidationError as error:
            found = error.errors()
            unknown = [e for e in found if e["type"] == "extra_forbidden"]
            raise _translated((unknown or found)[0], marks) from None
        recipe._folder, recipe._marks = folder, marks
        return recipe

    @property
    def steps(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The transforms in order, each with its parameters."""
        return [(step, {}) if isinstance(step, str) else next(iter(step.items())) for step in self.transforms]

    @property
    def folder(self) -> Path | None:
        """Where relative sources start; None: the working directory."""
        return self._folder

    def changed(self, **fields: Any) -> Recipe:
        """The recipe with other values for some fields.

        Raises:
            ParameterError: see `of`.
        """
        given = {f: getattr(self, f) for f in type(self).model_fields} | fields
        before, now = self.to_dict().get("parameters", {}), fields.get("parameters", {})
        foreign: list[Where] = [(f,) for f in fields if f != "parameters"]
        foreign += [("parameters", k) for k, v in now.items() if before.get(k) != v]
        marks = self._marks.without(*foreign) if self._marks is not None else None
        return type(self).from_data(given, marks=marks, folder=self._folder)

    def to_dict(self) -> dict[str, Any]:
        """The fields that say something, as plain data."""
        table: dict[str, Any] = {}
        for field, about in type(self).model_fields.items():
            value = getattr(self, field)
            if field == "parameters":
                value = {k: values.plain(v) for k, v in value.items()}
            value = values.plain(value) if field == "scale" else value
            value = dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
            if value or (value is not None and value not in ({}, [])) or about.is_required():
                table[field] = value
        return table

    def to_yaml(self) -> str:
        """The recipe as YAML that `read` reads back as this recipe."""
        return to_text(self.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and (self.to_dict(), self._folder) == (other.to_dict(), other._folder)

    def __hash__(self) -> int:
        return hash(self.to_yaml())

    def build(self, *, threads: int | None = None, force: bool = False) -> Checkpoint:
        """The merged model, lazily: headers are read and checked now, tensors when they are asked for or written.

        `force` gives a negative coefficient also to a task that the store's basis gives back too badly.

        Raises:
            TaskVecError: whatever headers and parameters show cannot work.
        """
        from taskvec.recipes.build import prepare

        return prepare(self, threads=threads, force=force).checkpoint

    def plan(
        self,
        output: str | Path | None = None,
        *,
        force: bool = False,
        threads: int | None = None,
    ) -> Plan:
        """What the merge would do, tensor by tensor, what it would read, write and take; reads headers only.

        With `output`, the destination and the space on its disk are checked as well.

        Raises:
            TaskVecError: whatever would make the merge fail, as far as headers tell.
        """
        from taskvec.recipes.plan import plan_of

        return plan_of(self, output=output, force=force, threads=threads)

    def run(self, output: str | Path, *, threads: int | None = None, **options: Any) -> Path:
        """Write the merged model; `options` are those of `Checkpoint.save` (force, allow_nonfinite, progress).

        Raises:
            TaskVecError: see `build` and `Checkpoint.save`.
        """
        merged = self.build(threads=threads, force=options.get("force", False))
        return self.write(merged, output, threads=threads, **options)

    def write(self, merged: Checkpoint, output: str | Path, **options: Any) -> Path:
        """Write what `build` gave; `options` as in `run`.

        Raises:
            TaskVecError: see `Checkpoint.save`.
        """
        return merged.save(output, dtype=self.dtype, shard_size=self.shard_size, **options)

    def refusal(self, where: Where, what: str, fix: str | None = None, *, key: bool = False) -> ParameterError:
        """The error for something in this recipe, with its line and column if it was read from a file."""
        return refusal(self._marks, where, what, fix, key=key)


def refusal(
    marks: Marks | None, where: Where, what: str, fix: str | None = None, *, key: bool = False
) -> ParameterError:
    """A ParameterError that says where in the file it stands, if there is one."""
    place = marks.at(where, key=key) if marks is not None else ""
    return ParameterError(f"{place}{what.removesuffix('.')}.", fix)


def _translated(error: ErrorDetails, marks: Marks | None) -> ParameterError:
    """Pydantic's finding in our words."""
    where: Where = tuple(error["loc"][:1])
    field = str(where[0])
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Misfit):
        return refusal(marks, (*where, *cause.where), cause.what, cause.fix, key=cause.key)
    if error["type"] == "extra_forbidden":
        known = [f for f in Recipe.model_fields if f in _WANTED]
        fix = nearest(field, known)
        if not fix.startswith("did"):
            fix = f"a parameter of the method goes under parameters:; {fix}"
        return refusal(marks, where, f"unknown key '{field}'", fix, key=True)
    if error["type"] == "missing":
        return refusal(marks, (), f"the recipe has no {field}", f"give {field}: {_WANTED[field]}.")
    what = f"{field} must be {_WANTED[field]}, and is {kind_of(error['input'])}"
    return refusal(marks, tuple(error["loc"]), what, "write it as a word in quotes.")


def _named_inputs(given: Any) -> dict[str, str]:
    if isinstance(given, list | tuple):
        return _by_stem(given)
    if not isinstance(given, Mapping):
        raise Misfit((), f"inputs must be {_WANTED['inputs']}, and is {kind_of(given)}", "write - SOURCE lines.")
    if not given:
        raise Misfit((), "a merge needs at least one input, and has none", "list task vectors or models.")
    for name in given:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise Misfit((str(name),), f"{name!r} cannot name an input", "use printable text.", key=True)
    return {name: _source(source, (name,)) for name, source in given.items()}


def _by_stem(given: list[Any] | tuple[Any, ...]) -> dict[str, str]:
    named: dict[str, str] = {}
    for i, item in enumerate(given):
        source = _source(item, (i,))
        name = stem_of(source)
        if name in named:
            fact = f"two inputs are named '{name}' ('{named[name]}' and '{source}')"
            raise Misfit((i,), fact, "name them: write inputs as NAME: SOURCE (NAME=SOURCE on the command line).")
        named[name] = source
    return named if named else _named_inputs({})


def _source(given: Any, where: Where) -> str:
    if not isinstance(given, str | Path) or not str(given).strip():
        raise Misfit(where, f"a source must be a path or a name, and is {kind_of(given)}", "write it in quotes.")
    return str(given)


def _step(given: Any, i: int) -> Any:
    """The name of a transform, or a table of one name and its parameters."""
    table = isinstance(given, Mapping) and len(given) == 1 and isinstance(next(iter(given.values())), Mapping)
    if not table and not isinstance(given, str):
        what = f"transforms must be {_WANTED['transforms']}, and one is {kind_of(given)}"
        raise Misfit((i,), what, "write - NAME lines, or - NAME: {PARAMETER: VALUE}.")
    return given if isinstance(given, str) else {str(name): dict(values) for name, values in given.items()}


def _read_own(document: Document) -> Recipe:
    return Recipe.from_data(document.data, marks=document.marks, folder=document.folder)


readers.register(readers.Reader(readers.OWN, lambda table: "method" in table, _read_own))
