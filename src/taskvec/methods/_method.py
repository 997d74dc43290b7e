"""`merge_method`: a pure function on stacked tensors becomes a registered merge method.

The decorator derives the name (the function's), the parameters (its keyword-only arguments) and their ranges (from
the annotations). Everything else a method needs is declared, so that the engine has no special cases:

    acts_on    how finely the engine may cut: "element" (flat blocks of 65,536 entries), "row", "matrix", "tensor"
    space      "vector": stacked deltas; "point": stacked weights, with `base` required, optional or none
    folds      statistics to gather before the merge, in order; each sees the state of the one before (see `Fold`);
               or a function of the parameters that returns them
    otherwise  the method for tensors whose role is not "matrix"
    least/most how many inputs it takes
    laws       what the contract suite holds the method to
    kernel     a compiled equivalent on NumPy blocks (T, n), tested against the function; None where it has none

A method whose result is a linear combination of its inputs is declared with `linear_method` instead: its function
maps their Gram matrix (or just their number) to one coefficient a task, and the engine never stacks anything.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from taskvec.errors import ParameterError, UnknownName
from taskvec.methods._parameters import INJECTED, Bound, Parameter, parameters_of

if TYPE_CHECKING:
    from torch import Tensor

ActsOn = Literal["element", "row", "matrix", "tensor"]
LAWS = frozenset({"permutation", "homogeneous", "zero", "idempotent", "additive"})


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a block lies: what a method may know besides the numbers (it never sees a file, a model or a layout)."""

    tensor: str
    shape: tuple[int, ...]
    start: int
    tasks: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Fold:
    """A statistic gathered over all blocks before the merge.

    `step(block, at=…, state=…, **parameters)` maps a float32 array (T, n) to a statistic with `+`; the engine adds
    the statistics in the order of the blocks, for each tensor (`scope="tensor"`) or for the whole model.
    `finish(total, state, entries, **parameters)` turns the total over `entries` entries into the state that the next
    fold, or the method, receives as `state`. `state` is that of the fold before (None for the first). `counts` says
    that the statistic is made of integers: then blocks are larger, and the order of additions does not matter.
    """

    step: Callable[..., Any]
    finish: Callable[..., Any]
    scope: Literal["tensor", "model"] = "tensor"
    counts: bool = False


Folds = tuple[Fold, ...] | Callable[..., tuple[Fold, ...]]


@final
@dataclass(frozen=True, eq=False, slots=True)
class MergeMethod:
    """A registered method; `function` is the plain one. See the module's docstring for the fields."""

    function: Callable[..., Tensor]
    name: str
    source: str
    laws: frozenset[str]
    acts_on: ActsOn
    space: Literal["vector", "point", "either"]
    base: Literal["required", "optional", "none"]
    folds: Folds
    otherwise: str | None
    least: int
    most: int | None
    parameters: Mapping[str, Parameter]
    injected: frozenset[str] = field(default=frozenset())
    kernel: Callable[..., Any] | None = None
    weigh: Callable[..., Any] | None = None

    def folds_for(self, bound: Bound) -> tuple[Fold, ...]:
        """The folds to run, in order; they may depend on the parameters (a dialect has its own scope)."""
        return self.folds(**bound.at("")) if callable(self.folds) else self.folds

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
            wanted = f"exactly {self.least}" if self.least == self.most else f"at least {self.least}"
            raise ParameterError(f"{self.name} needs {wanted} inputs; it got {len(tasks)}.")
        for key in given:
            if key not in self.parameters:
                unknown = UnknownName.among(f"{self.name} has no parameter '{key}'.", key, self.parameters)
                raise ParameterError(unknown.fact, unknown.fix)
        bound = {}
        for key, parameter in self.parameters.items():
            if key not in given and parameter.required:
                raise ParameterError(f"{self.name} needs a value for '{key}'.", f"give {key}=….")
            bound[key] = parameter.resolve(self.name, given.get(key, parameter.default), tasks)
        return Bound(bound)

    def __call__(self, stacked: Tensor, *, state: Any = None, at: Place | None = None, **bound: Any) -> Tensor:
        """The merge of stacked tensors (task, *shape); `bound` comes from `bind(…).at(tensor)`."""
        extra = {k: v for k, v in (("state", state), ("at", at)) if k in self.injected}
        return self.function(stacked, **bound, **extra)


_methods: dict[str, MergeMethod] = {}


def merge_method(
    *,
    source: str,
    acts_on: ActsOn = "element",
    space: Literal["vector", "point", "either"] = "vector",
    base: Literal["required", "optional", "none"] = "required",
    folds: Folds = (),
    otherwise: str | None = None,
    least: int = 1,
    most: int | None = None,
    laws: Set[str] = frozenset(),
    kernel: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Tensor]], MergeMethod]:
    """Register the decorated function; see the module's docstring.

    Raises:
        ParameterError: a law that does not exist, or a name that is taken.
    """

    def register(function: Callable[..., Tensor]) -> MergeMethod:
        name = function.__name__
        keywords = inspect.signature(function).parameters
        return _register(
            MergeMethod(
                function=function, name=name, source=source, laws=frozenset(laws), acts_on=acts_on, space=space,
                base=base, folds=folds, otherwise=otherwise, least=least, most=most,
                parameters=parameters_of(function), injected=frozenset(k for k in INJECTED if k in keywords),
                kernel=kernel,
            )
        )  # fmt: skip

    return register


def linear_method(
    *,
    source: str,
    space: Literal["vector", "point", "either"] = "vector",
    base: Literal["required", "optional", "none"] = "required",
    gram: bool = False,
    least: int = 1,
    most: int | None = None,
    laws: Set[str] = frozenset(),
) -> Callable[[Callable[..., Tensor]], MergeMethod]:
    """Register a function `(count or gram, **parameters) -> coefficients (task,)` as a merge method.

    With `gram` the function receives the float64 Gram matrix (task, task) of each flattened tensor, else the number
    of tasks; it returns float64 coefficients.
    """

    def register(weigh: Callable[..., Tensor]) -> MergeMethod:
        @functools.wraps(weigh)
        def combine(stacked: Tensor, *, state: Any = None, at: Place | None = None, **bound: Any) -> Tensor:
            flat = stacked.double().reshape(stacked.shape[0], -1)
            known = (state if state is not None else flat @ flat.T) if gram else stacked.shape[0]
            coefficients = weigh(known, **bound).double()
            return (coefficients[:, None] * flat).sum(0).reshape(stacked.shape[1:])

        return _register(
            MergeMethod(
                function=combine, name=weigh.__name__, source=source, laws=frozenset(laws), acts_on="element",
                space=space, base=base, folds=(GRAM,) if gram else (), otherwise=None, least=least, most=most,
                parameters=parameters_of(weigh), injected=frozenset({"state"}), weigh=weigh,
            )
        )  # fmt: skip

    return register


def _register(method: MergeMethod) -> MergeMethod:
    for law in method.laws - LAWS:
        raise ParameterError(f"'{law}' is not a law.", f"the laws are {', '.join(sorted(LAWS))}.")
    if method.name in _methods:
        home = _methods[method.name].function.__module__
        raise ParameterError(f"a merge method named '{method.name}' exists already, in {home}.")
    _methods[method.name] = method
    return method


def _gram_step(block: Any, **_: Any) -> Any:
    from taskvec.ops.gram import gram

    return gram(block)


def _gram_finish(total: Any, *_: Any, **__: Any) -> Tensor:
    import torch

    return torch.from_numpy(total)


GRAM = Fold(_gram_step, _gram_finish)


def _load() -> None:
    """Import every public module beside this one, in name order: a method is its file."""
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if not module.startswith("_"):
            importlib.import_module(f"taskvec.methods.{module}")


def names() -> list[str]:
    """The names of all registered methods."""
    _load()
    return sorted(_methods)


def get(name: str) -> MergeMethod:
    """The method registered under `name`.

    Raises:
        UnknownName: no such method; the nearest is suggested.
    """
    _load()
    if name not in _methods:
        raise UnknownName.among(f"no merge method named '{name}'.", name, _methods)
    return _methods[name]
