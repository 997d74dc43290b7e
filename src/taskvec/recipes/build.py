"""From a `Recipe` to the lazy merge: everything that headers and parameters show is checked here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, final

from taskvec import methods, transforms
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.save import parse_size
from taskvec.checkpoint.source import TensorSpec
from taskvec.edited import EditedSource
from taskvec.engine.device import CPU, device_of
from taskvec.engine.merge import merge
from taskvec.engine.transform import transform
from taskvec.errors import FormatError, ParameterError, SchemaError, UnknownName
from taskvec.methods._method import MergeMethod
from taskvec.methods._over import composed
from taskvec.methods._parameters import Bound, PerTensor
from taskvec.ops.dtypes import DTYPES, DType, dtype_of
from taskvec.recipes import values
from taskvec.recipes.document import Where, nearest
from taskvec.recipes.sources import Sources, placed
from taskvec.recipes.values import Misfit
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    from taskvec.recipes.recipe import Recipe
    from taskvec.store import Store

_SHARED = ("dialect", "seed", "scale")  # fields of a recipe that some methods have as parameters
Inputs = Mapping[str, TaskVector] | Mapping[str, Checkpoint]


@final
@dataclass(frozen=True, slots=True)
class Prepared:
    """A recipe whose inputs are open: the method, the base, the inputs by name, parameters per tensor, the result."""

    recipe: Recipe
    method: MergeMethod
    base: Checkpoint | None
    inputs: Inputs
    layout: Layout
    bound: Bound
    scale: float | PerTensor | None
    dtype: DType | None
    checkpoint: Checkpoint

    @property
    def tasks(self) -> list[str]:
        """The names of the inputs, in order."""
        return list(self.inputs)

    @property
    def points(self) -> bool:
        """Whether the inputs are stacked as weights, not as deltas."""
        return isinstance(next(iter(self.inputs.values())), Checkpoint)


def prepare(recipe: Recipe, *, threads: int | None = None, force: bool = False) -> Prepared:
    """Open what a recipe names and check all that can be checked without reading a tensor.

    `force` subtracts tasks that a store's basis gives back too badly.

    Raises:
        ParameterError: something in the recipe that cannot be; with line and column.
        SchemaError: inputs that do not fit together. FormatError: a file that is not what it should be.
    """
    method = _method(recipe)
    dtype = _check_output(recipe)
    _check_device(recipe)
    sources = Sources.open(recipe.folder, recipe.base, recipe.store)
    points = method.space == "point" or (method.space == "either" and recipe.base is None)
    _check_base(recipe, method, points=points)
    inputs: Any = {n: (sources.point if points else sources.vector)(n, s) for n, s in recipe.inputs.items()}
    if points and method.base == "none" and sources.base is not None:
        _check_base_is_used(recipe, method, sources.base, inputs)
    donor = _donor(method, sources.base, inputs)
    layout = _layout(recipe, donor)
    names = [n for n, s in donor.specs.items() if s.dtype.moves]
    given = _parameters(recipe, method, names)
    bound = _bound(recipe, method, given)
    options: Any = {"layout": layout, "threads": threads, "device": recipe.device or CPU}
    scale = None if "scale" in given else _expanded(recipe, ("scale",), recipe.scale, names)
    if sources.store is not None and not force:
        _check_negations(recipe, sources.store, names, bound, scale)
    if points:
        result = merge(method, inputs, base=None if method.base == "none" else sources.base, **options, **given)
    else:
        base = cast("Checkpoint", sources.base)
        _check_bases(base, inputs)
        vectors = inputs
        for name, values_of_step in recipe.steps:
            vectors = transform(name, vectors, **options, **values_of_step)
        result = base + merge(method, vectors, **({} if scale is None else {"scale": scale}), **options, **given)
    return Prepared(recipe, method, sources.base, inputs, layout, bound, scale, dtype, result)


def _method(recipe: Recipe) -> MergeMethod:
    try:
        method = methods.get(recipe.method)
    except UnknownName as error:
        raise recipe.refusal(("method",), error.fact, error.fix) from error
    try:
        method = composed(method, recipe.parameters)
    except (UnknownName, ParameterError) as error:
        raise recipe.refusal(("parameters", "method"), error.fact, error.fix) from error
    _check_transforms(recipe, method)
    if recipe.scale is not None and method.space == "point" and "scale" not in method.parameters:
        raise recipe.refusal(("scale",), f"{method.name} merges points, which have no scale", "leave scale out.")
    return method


def _check_transforms(recipe: Recipe, method: MergeMethod) -> None:
    for i, (name, given) in enumerate(recipe.steps):
        try:
            transforms.get(name).method.bind(given, list(recipe.inputs))
        except (UnknownName, ParameterError) as error:
            raise recipe.refusal(("transforms", i), error.fact, error.fix) from error
    if recipe.transforms and (method.space == "point" or recipe.base is None):
        fix = "leave transforms out, or give the base and a method on task vectors."
        raise recipe.refusal(("transforms",), f"transforms are of task vectors, and {method.name} merges points", fix)


def _check_output(recipe: Recipe) -> DType | None:
    try:
        if recipe.shard_size is not None:
            parse_size(recipe.shard_size)
    except ParameterError as error:
        raise recipe.refusal(("shard_size",), error.fact, error.fix) from error
    if recipe.dtype is None:
        return None
    try:
        dtype = dtype_of(recipe.dtype)
    except FormatError as error:
        known = ("float64", "float32", "bfloat16", "float16", *(c for c, d in DTYPES.items() if d.moves))
        raise recipe.refusal(("dtype",), error.fact, nearest(recipe.dtype, known)) from error
    if not dtype.moves:
        fix = "use float32, bfloat16 or float16."
        raise recipe.refusal(("dtype",), f"dtype {dtype} is not a floating-point type", fix)
    return dtype


def _check_device(recipe: Recipe) -> None:
    try:
        device_of(recipe.device or CPU)
    except ParameterError as error:
        raise recipe.refusal(("device",), error.fact, error.fix) from error


def _check_base(recipe: Recipe, method: MergeMethod, *, points: bool) -> None:
    if recipe.base is None and not points:
        fix = "give the base (base:, or --base): the model that the inputs were tuned from."
        raise recipe.refusal((), f"{method.name} merges task vectors, and there is no base", fix)
    if recipe.base is None and method.base == "required" and method.space == "point":
        raise recipe.refusal(
            (), f"{method.name} needs the base, and there is none", "give the base (base:, or --base)."
        )


def _check_base_is_used(recipe: Recipe, method: MergeMethod, base: Checkpoint, points: Mapping[str, Any]) -> None:
    """A method without a base may need one only for inputs that are displacements."""
    if not any(isinstance(p.source, EditedSource) and p.source.base is base for p in points.values()):
        fix = "leave it out, or list it among the inputs."
        raise recipe.refusal(("base",), f"{method.name} takes no base, and no input starts from it", fix)


def _donor(method: MergeMethod, base: Checkpoint | None, inputs: Mapping[str, Any]) -> Checkpoint:
    """Whose layout, dtypes and side files the result has."""
    first: Checkpoint | TaskVector = next(iter(inputs.values()))
    return base if base is not None and method.base != "none" else cast("Checkpoint", first)


def _layout(recipe: Recipe, donor: Checkpoint) -> Layout:
    if recipe.layout is None:
        return donor.layout()
    try:
        return donor.layout(placed(recipe.folder, recipe.layout))
    except ParameterError as error:
        raise recipe.refusal(("layout",), error.fact, error.fix) from error


def _parameters(recipe: Recipe, method: MergeMethod, names: Sequence[str]) -> dict[str, Any]:
    """The parameters as the method takes them, gradients and filters spread over these tensors."""
    given: dict[str, Any] = {}
    for key, value in recipe.parameters.items():
        if key not in method.parameters:
            fix = nearest(key, method.parameters) if method.parameters else "it has none."
            raise recipe.refusal(("parameters", key), f"{method.name} has no parameter '{key}'", fix, key=True)
        given[key] = _expanded(recipe, ("parameters", key), value, names)
    for field in _SHARED:
        _insert(recipe, method, field, _expanded(recipe, (field,), getattr(recipe, field), names), given)
    return given


def _expanded(recipe: Recipe, where: Where, value: Any, names: Sequence[str]) -> Any:
    try:
        return values.expand(value, names, list(recipe.inputs))
    except Misfit as error:
        raise recipe.refusal((*where, *error.where), f"{where[-1]}: {error.what}", error.fix) from error


def _insert(recipe: Recipe, method: MergeMethod, field: str, value: Any, given: dict[str, Any]) -> None:
    """A field of the recipe that is a parameter of some methods."""
    if value is None:
        return
    if field in given:
        raise recipe.refusal(("parameters", field), f"{field} is given twice", f"keep one {field}.", key=True)
    if field in method.parameters:
        given[field] = value
    elif field == "dialect" and value != "paper":
        raise recipe.refusal(("dialect",), f"{method.name} has no dialect '{value}'", "leave dialect out.")
    elif field == "seed":
        raise recipe.refusal(("seed",), f"{method.name} draws no random numbers", "leave seed out.")


def _bound(recipe: Recipe, method: MergeMethod, given: Mapping[str, Any]) -> Bound:
    tasks = list(recipe.inputs)
    for key, value in given.items():
        where = (key,) if key in _SHARED and key not in recipe.parameters else ("parameters", key)
        try:
            method.parameters[key].resolve(method.name, value, tasks)
        except ParameterError as error:
            raise recipe.refusal(where, error.fact, error.fix or _range(method, key)) from error
    where = ("parameters",)
    try:
        bound = method.bind(given, tasks)
        if any(fold.scope == "model" for fold in method.folds_for(bound)):
            where = next((("parameters", k) for k, v in given.items() if isinstance(v, PerTensor)), where)
            bound.whole(method.name)
    except ParameterError as error:
        raise recipe.refusal(where, error.fact, error.fix) from error
    return bound


def _check_negations(
    recipe: Recipe, store: Store, names: Sequence[str], bound: Bound, scale: float | PerTensor | None
) -> None:
    """Refuse a negative share of what the store refuses to have subtracted."""
    recovered = [(i, source) for i, source in enumerate(recipe.inputs.values()) if store.is_recovered(source)]
    for name in names if recovered else ():
        given = bound.at(name)
        factor = given.get("scale", scale.at(name) if isinstance(scale, PerTensor) else scale)
        shares, factors = given.get("coefficients", 1.0), 1.0 if factor is None else factor
        for i, source in recovered:
            if _of(shares, i) * _of(factors, i) < 0.0:
                store.check_negation(source)


def _of(value: Any, task: int) -> float:
    return float(value[task] if isinstance(value, tuple | list) else value)


def _range(method: MergeMethod, key: str) -> str:
    parameter = method.parameters[key]
    if parameter.choices:
        return f"{key} is one of {', '.join(parameter.choices)}."
    kind = {float: "a number", int: "an integer", bool: "true or false"}.get(parameter.kind, "a word")
    each = ", or one a task: [a, b, …]" if parameter.per_task else ""
    return f"{key} is {kind}{f' in {parameter.range}' if parameter.range is not None else ''}{each}."


def _check_bases(base: Checkpoint, vectors: Mapping[str, TaskVector]) -> None:
    """Refuse a vector whose recorded base is known to be another one; what is not known is checked while merging."""
    known = base.fingerprints.known()
    for name, vector in vectors.items():
        for _, leaf in vector.terms:
            found = None if leaf.base is None or leaf.base is base.fingerprints else leaf.base.known()
            if known is not None and found is not None and found != known and not _unmoved(leaf.specs):
                raise SchemaError(
                    f"the input '{name}' was cut from the base {found}, and {base.source.describe()} is {known}.",
                    "give the base it was cut from.",
                )


def _unmoved(specs: Mapping[str, TensorSpec]) -> bool:
    return not specs
