"""`merge_method`: a pure function on stacked tensors becomes a registered merge method.

The decorator derives the name (the function's), the parameters (its keyword-only arguments) and their ranges (from
the annotations). Everything else a method needs is declared, so that the engine has no special cases:

    acts_on    how finely the engine may cut: "element" (flat blocks of 65,536 entries), "row" (between the slices of
               the first axis; a vector is one row), "matrix", "tensor"; or a function of the parameters that says so
    space      "vector": stacked deltas; "point": stacked weights; "either": both
    base       for methods on points: "required", "optional" or "none". A function with an argument `base` receives the
               base's tensor there, and the stack holds the other inputs (folds and kernels likewise: the base's row).
               A method on either space that is given points and a base merges the displacements from the base
    folds      statistics to gather before the merge, in order; each sees the state of the one before (see `Fold`);
               or a function of the parameters that returns them
    otherwise  the method for tensors whose role is not "matrix", and for matrices with fewer rows or columns than there
               are tasks; it gets the parameters that it has, too
    over       for a method that works on the merge of another one, which its parameter `method` names: a function of
               that MergeMethod that refuses what does not fit and returns the fields in which the two together differ
               from this one (see `_over`)
    least/most how many inputs it takes
    laws       what the contract suite holds the method to
    kernel     a compiled equivalent on NumPy blocks (T, n), tested against the function; None where it has none
    weigh      the coefficients of the same merge, where it is a linear combination of the inputs summed in float64
               (None: for these parameters it is not)
    dialects   defaults that differ from the signature's in a `dialect` (REQUIRED: it has none there)
    check      refuses parameters that do not go together: called with all of them, raises ParameterError
    spectral   how a method merges matrices by their singular triplets (see `spectral_method`)

A method that is always a linear combination of its inputs is declared with `linear_method` instead: its function
maps their Gram matrix (or just their number) to one coefficient a task, and the engine never stacks anything.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from taskvec.errors import ParameterError, UnknownName
from taskvec.methods._parameters import INJECTED, Bound, Parameter, parameters_of
from taskvec.methods._place import Place

if TYPE_CHECKING:
    from torch import Tensor

    from taskvec.checkpoint import layout
    from taskvec.methods._triplets import Spectral

ActsOn = Literal["element", "row", "matrix", "tensor"]
GramOf = Literal["tensor", "row", "column"]
REQUIRED: Any = inspect.Parameter.empty
LAWS = frozenset({"permutation", "homogeneous", "zero", "idempotent", "additive"})


@final
@dataclass(frozen=True, slots=True)
class Fold:
    """A statistic gathered over all blocks before the merge.

    `step(block, at=…, state=…, **parameters)` maps a float32 array (T, n) to a statistic with `+` (arrays are added,
    lists joined); the engine adds the statistics in the order of the blocks, for each tensor (`scope="tensor"`) or
    for the whole model.
    `finish(total, state, entries, **parameters)` turns the total over `entries` entries into the state that the next
    fold, or the method, receives as `state`. `state` is that of the fold before (None for the first). `counts` says
    that the statistic is made of integers: then blocks are larger, and the order of additions does not matter.
    `compiled` says that both are NumPy and compiled loops on one thread: a merge that needs nothing else does not
    load torch. `acts_on="row"`: blocks are cut between the slices of the first axis (a vector is one).
    """

    step: Callable[..., Any]
    finish: Callable[..., Any]
    scope: Literal["tensor", "model"] = "tensor"
    counts: bool = False
    compiled: bool = False
    acts_on: Literal["element", "row"] = "element"


Folds = tuple[Fold, ...] | Callable[..., tuple[Fold, ...]]


@final
@dataclass(frozen=True, eq=False, slots=True)
class MergeMethod:
    """A registered method; `function` is the plain one. See the module's docstring for the fields."""

    function: Callable[..., Tensor]
    name: str
    source: str
    laws: frozenset[str]
    acts_on: ActsOn | Callable[..., ActsOn]
    space: Literal["vector", "point", "either"]
    base: Literal["required", "optional", "none"]
    folds: Folds
    otherwise: str | MergeMethod | None
    least: int
    most: int | None
    parameters: Mapping[str, Parameter]
    injected: frozenset[str] = field(default=frozenset())
    kernel: Callable[..., Any] | None = None
    weigh: Callable[..., Any] | None = None
    gram: Callable[..., GramOf | None] | None = None
    dialects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    check: Callable[..., None] | None = None
    over: Callable[[MergeMethod], Mapping[str, Any]] | None = None
    spectral: Spectral | None = None

    @property
    def elsewhere(self) -> MergeMethod | None:
        """The method for tensors that are not matrices, where it is another one."""
        return get(self.otherwise) if isinstance(self.otherwise, str) else self.otherwise

    def acting(self, place: layout.Place, tasks: int) -> MergeMethod:
        """The method for a tensor: that of `elsewhere`, if it is no matrix or has fewer rows or columns than tasks."""
        other = self.elsewhere
        return self if other is None or (place.role == "matrix" and place.short_side >= tasks) else other

    def folds_for(self, bound: Bound) -> tuple[Fold, ...]:
        """The folds to run, in order; they may depend on the parameters (a dialect has its own scope)."""
        return self.folds(**bound.at("")) if callable(self.folds) else self.folds

    def unit_of(self, parameters: Mapping[str, Any]) -> ActsOn:
        """What the method acts on under these parameters."""
        return self.acts_on(**parameters) if callable(self.acts_on) else self.acts_on

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def bind(self, given: Mapping[str, Any], tasks: Sequence[str]) -> Bound:
        """All parameters, checked, defaults filled in, per-task ones spread over `tasks`.

        Raises:
            ParameterError: an unknown or missing parameter, or a value out of its range; too few tasks.
        """
        if len(tasks) < self.least or (self.most is not None and len(tasks) > self.most):
            bound = f"exactly {self.least}" if self.least == self.most else f"at least {self.least}"
            wanted = f"{bound} input{'s' if self.least != 1 else ''}"
            raise ParameterError(f"{self.name} needs {wanted}; it got {len(tasks)}.", f"give it {wanted}.")
        for key in given:
            if key not in self.parameters:
                unknown = UnknownName.among(f"{self.name} has no parameter '{key}'.", key, self.parameters)
                raise ParameterError(unknown.fact, unknown.fix)
        dialect = given.get("dialect")
        defaults = self.dialects.get(dialect, {}) if isinstance(dialect, str) else {}
        values = {}
        for key, parameter in self.parameters.items():
            value = given.get(key, defaults.get(key, parameter.default))
            if value is REQUIRED:
                where = f" in the dialect {dialect}" if key in defaults else ""
                raise ParameterError(f"{self.name} needs a value for '{key}'{where}.", f"give {key}=… (--set {key}=…).")
            values[key] = parameter.resolve(self.name, value, tasks)
        found = Bound(values)
        self.check_at(found.at(""))
        return found

    def check_at(self, parameters: Mapping[str, Any]) -> None:
        """Refuse the parameters of one tensor that do not go together.

        Raises:
            ParameterError: says which.
        """
        if self.check is not None:
            self.check(**parameters)

    def __call__(
        self, stacked: Tensor, *, state: Any = None, at: Place | None = None, base: Tensor | None = None, **bound: Any
    ) -> Tensor:
        """The merge of stacked tensors (task, *shape); `bound` comes from `bind(…).at(tensor)`."""
        if at is not None and at.pieces and self.unit_of(bound) == "matrix":
            return self._of_pieces(stacked, at, base, {"state": state, **bound})
        extra = {k: v for k, v in (("state", state), ("at", at), ("base", base)) if k in self.injected}
        return self.function(stacked, **bound, **extra)

    def _of_pieces(self, stacked: Tensor, at: Place, base: Tensor | None, options: Mapping[str, Any]) -> Tensor:
        """The merges of the matrices that a fused one consists of, put together."""
        found = [
            self(
                stacked[:, rows, columns].contiguous(),
                at=at.piece(number),
                base=None if base is None else base[rows, columns],
                **options,
            )
            for number, (rows, columns) in enumerate(at.pieces)
        ]
        merged = found[0].new_empty(*found[0].shape[:-2], *at.shape)
        for piece, values in zip(at.pieces, found, strict=True):
            merged[(..., *piece)] = values
        return merged


_methods: dict[str, MergeMethod] = {}


def merge_method(
    *,
    source: str,
    acts_on: ActsOn | Callable[..., ActsOn] = "element",
    space: Literal["vector", "point", "either"] = "vector",
    base: Literal["required", "optional", "none"] = "required",
    folds: Folds = (),
    otherwise: str | None = None,
    least: int = 1,
    most: int | None = None,
    laws: Set[str] = frozenset(),
    kernel: Callable[..., Any] | None = None,
    weigh: Callable[..., Any] | None = None,
    dialects: Mapping[str, Mapping[str, Any]] | None = None,
    check: Callable[..., None] | None = None,
    over: Callable[[MergeMethod], Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., Tensor]], MergeMethod]:
    """Register the decorated function; see the module's docstring.

    Raises:
        ParameterError: a law that does not exist, or a name that is taken.
    """

    def register(function: Callable[..., Tensor]) -> MergeMethod:
        name = function.__name__
        keywords = inspect.signature(function).parameters
        return enroll(
            MergeMethod(
                function=function, name=name, source=source, laws=frozenset(laws), acts_on=acts_on, space=space,
                base=base, folds=folds, otherwise=otherwise, least=least, most=most,
                parameters=parameters_of(function), injected=frozenset(k for k in INJECTED if k in keywords),
                kernel=kernel, weigh=weigh, dialects=dialects or {}, check=check, over=over,
            )
        )  # fmt: skip

    return register


def linear_method(
    *,
    source: str,
    space: Literal["vector", "point", "either"] = "vector",
    base: Literal["required", "optional", "none"] = "required",
    gram: GramOf | Callable[..., GramOf] | None = None,
    least: int = 1,
    most: int | None = None,
    laws: Set[str] = frozenset(),
    dialects: Mapping[str, Mapping[str, Any]] | None = None,
    check: Callable[..., None] | None = None,
) -> Callable[[Callable[..., Any]], MergeMethod]:
    """Register a function `(count or gram, **parameters) -> coefficients` on NumPy arrays as a merge method.

    Without `gram` the function receives the number of tasks and returns float64 coefficients (task,). With it, it
    receives float64 Gram matrices (*unit, task, task) and returns (*unit, task); a unit is the whole tensor (then
    *unit is empty), each row (last axis) or each column (first axis); `gram` may be a function of the parameters.
    """

    def kind(**bound: Any) -> GramOf | None:
        return gram(**bound) if callable(gram) else gram

    def folds(**bound: Any) -> tuple[Fold, ...]:
        found = kind(**bound)
        return () if found is None else (_GRAMS[found],)

    def register(weigh: Callable[..., Any]) -> MergeMethod:
        @functools.wraps(weigh)
        def combine(stacked: Tensor, *, state: Any = None, at: Place | None = None, **bound: Any) -> Tensor:
            from taskvec.ops.gram import combination, gram_of

            found = kind(**bound)
            known = stacked.shape[0] if found is None else state
            if found is not None and state is None:
                known = gram_of(stacked, found).cpu().numpy()
            return combination(stacked, weigh(known, **bound), found)

        return enroll(
            MergeMethod(
                function=combine, name=weigh.__name__, source=source, laws=frozenset(laws), acts_on="element",
                space=space, base=base, folds=folds if gram is not None else (), otherwise=None, least=least,
                most=most, parameters=parameters_of(weigh), injected=frozenset({"state"}), weigh=weigh,
                gram=kind if gram is not None else None, dialects=dialects or {}, check=check,
            )
        )  # fmt: skip

    return register


def enroll(method: MergeMethod) -> MergeMethod:
    """Add a method to the registry; refuses a law that does not exist, or a name that is taken."""
    for law in method.laws - LAWS:
        raise ParameterError(f"'{law}' is not a law.", f"the laws are {', '.join(sorted(LAWS))}.")
    if method.name in _methods:
        home = _methods[method.name].function.__module__
        raise ParameterError(f"a merge method named '{method.name}' exists already, in {home}.")
    _methods[method.name] = method
    return method


def _gram_step(block: Any, **_: Any) -> Any:
    from taskvec.ops.gram import products

    return products(block)


def _row_step(block: Any, *, at: Place, **_: Any) -> Any:
    from taskvec.ops.gram import row_grams

    return [row_grams(block, at.shape)]


def _column_step(block: Any, *, at: Place, **_: Any) -> Any:
    from taskvec.ops.gram import column_grams

    return column_grams(block, at.shape)


def _gram_finish(total: Any, *_: Any, **__: Any) -> Any:
    import numpy as np

    return np.concatenate(total) if isinstance(total, list) else total


_GRAMS: Mapping[GramOf, Fold] = {
    "tensor": Fold(_gram_step, _gram_finish, compiled=True),
    "row": Fold(_row_step, _gram_finish, compiled=True, acts_on="row"),
    "column": Fold(_column_step, _gram_finish, compiled=True, acts_on="row"),
}


ENTRY_POINTS = "taskvec.methods"  # the group in which other packages name a module, or a MergeMethod in one


@functools.cache
def _load() -> None:
    """Import every method of ours: a method is its file."""
    for module in _own():
        importlib.import_module(f"taskvec.methods.{module}")


@functools.cache
def _own() -> list[str]:
    """The public modules beside this one, in name order."""
    found = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return [name for name in found if not name.startswith("_")]


@functools.cache
def _load_others() -> None:
    """Import what other packages offer under the entry point group; importing registers it.

    Raises:
        ParameterError: one of them does not load; names it and its package.
    """
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda p: (p.name, p.value)):
        try:
            point.load()
        except Exception as error:
            home = point.dist.name if point.dist is not None else "unknown"
            raise ParameterError(
                f"the method '{point.name}' ({point.value}, package {home}) does not load: {error!r}",
                f"repair or uninstall the package {home}.",
            ) from error


def names() -> list[str]:
    """The names of all registered methods, those of other packages among them.

    Raises:
        ParameterError: a method of another package does not load.
    """
    _load()
    _load_others()
    return sorted(_methods)


def get(name: str) -> MergeMethod:
    """The method registered under `name`; other packages are asked only where it is none of ours.

    Raises:
        UnknownName: no such method; the nearest is suggested.
        ParameterError: a method of another package does not load.
    """
    if name not in _methods and name in _own():
        importlib.import_module(f"taskvec.methods.{name}")  # the others need not be loaded, nor torch for them
    if name not in _methods:
        _load()
        _load_others()
    if name not in _methods:
        raise UnknownName.among(f"no merge method named '{name}'.", name, _methods)
    return _methods[name]
