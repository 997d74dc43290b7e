"""`merge_method`: a pure function on stacked tensors becomes a registered merge method.

The decorator derives the name (the function's), the parameters (its keyword-only arguments) and their ranges (from
the annotations). Everything else a method needs is declared, so that the engine has no special cases:

    acts_on    how finely the engine may cut: "element" (flat blocks of 65,536 entries), "row", "matrix", "tensor"
    space      "vector": stacked deltas; "point": stacked weights, with `base` required, optional or none
    folds      statistics to gather before the merge, in order; each sees the state of the one before (see `Fold`)
    otherwise  the method for tensors whose role is not "matrix"
    laws       what the contract suite holds the method to
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from taskvec.errors import ParameterError, UnknownName
from taskvec.methods._parameters import INJECTED, Parameter, parameters_of

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

    `step(deltas, at=…, state=…, **parameters)` maps a block (T, n) to a statistic with `+`; the engine adds the
    statistics in the order of the blocks, for each tensor (`scope="tensor"`) or for the whole model. `finish(total,
    state, entries, **parameters)` turns the total over `entries` entries into the state that the next fold, or the
    method, receives as `state`. `state` is that of the fold before (None for the first).
    """

    step: Callable[..., Any]
    finish: Callable[..., Any]
    scope: Literal["tensor", "model"] = "tensor"


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
    folds: tuple[Fold, ...]
    otherwise: str | None
    least: int
    parameters: Mapping[str, Parameter]
    injected: frozenset[str] = field(default=frozenset())

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def bind(self, given: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
        """All parameters, checked, defaults filled in, per-task ones spread over `tasks`.

        Raises:
            ParameterError: an unknown or missing parameter, or a value out of its range; too few tasks.
        """
        if len(tasks) < self.least:
            raise ParameterError(f"{self.name} needs at least {self.least} inputs; it got {len(tasks)}.")
        for key in given:
            if key not in self.parameters:
                unknown = UnknownName.among(f"{self.name} has no parameter '{key}'.", key, self.parameters)
                raise ParameterError(unknown.fact, unknown.fix)
        bound = {}
        for key, parameter in self.parameters.items():
            if key not in given and parameter.required:
                raise ParameterError(f"{self.name} needs a value for '{key}'.", f"give {key}=….")
            bound[key] = parameter.resolve(self.name, given.get(key, parameter.default), tasks)
        return bound

    def __call__(self, deltas: Tensor, *, state: Any = None, at: Place | None = None, **bound: Any) -> Tensor:
        """The merge of stacked tensors (task, *shape); `bound` comes from `bind`."""
        extra = {k: v for k, v in (("state", state), ("at", at)) if k in self.injected}
        return self.function(deltas, **bound, **extra)


_methods: dict[str, MergeMethod] = {}


def merge_method(
    *,
    source: str,
    acts_on: ActsOn = "element",
    space: Literal["vector", "point", "either"] = "vector",
    base: Literal["required", "optional", "none"] = "required",
    folds: tuple[Fold, ...] = (),
    otherwise: str | None = None,
    least: int = 1,
    laws: Set[str] = frozenset(),
) -> Callable[[Callable[..., Tensor]], MergeMethod]:
    """Register the decorated function; see the module's docstring.

    Raises:
        ParameterError: a law that does not exist, or a name that is taken.
    """
    for law in laws - LAWS:
        raise ParameterError(f"'{law}' is not a law.", f"the laws are {', '.join(sorted(LAWS))}.")

    def register(function: Callable[..., Tensor]) -> MergeMethod:
        name = function.__name__
        if name in _methods:
            raise ParameterError(
                f"a merge method named '{name}' exists already, in {_methods[name].function.__module__}."
            )
        keywords = inspect.signature(function).parameters
        _methods[name] = MergeMethod(
            function, name, source, frozenset(laws), acts_on, space, base, folds, otherwise, least,
            parameters_of(function), frozenset(k for k in INJECTED if k in keywords),
        )  # fmt: skip
        return _methods[name]

    return register


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
