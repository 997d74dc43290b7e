"""`vector_transform`: a pure function from stacked deltas to stacked deltas becomes a registered transform.

The function maps (task, *shape) to (task, *shape), row by row; parameters, folds, `acts_on` and `at` are those of a
merge method (see `methods/_method.py`), and so is the engine. What differs is declared here:

    alone      every vector is transformed without the others: the stack has one row, and a fold sees one vector
    otherwise  the function for tensors whose role is not "matrix"
    laws       "zero": zero inputs stay zero; "homogeneous": a factor of all inputs is one of all outputs;
               "permutation": the order of the tasks makes no difference to any of them
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from taskvec.errors import ParameterError, UnknownName
from taskvec.methods._method import Folds, MergeMethod
from taskvec.methods._parameters import INJECTED, Parameter, parameters_of

if TYPE_CHECKING:
    from torch import Tensor

LAWS = frozenset({"permutation", "homogeneous", "zero"})
Function = Callable[..., "Tensor"]


@final
@dataclass(frozen=True, eq=False, slots=True)
class Transform:
    """A registered transform; `method` is what the engine runs: a method whose merge has one row a task."""

    method: MergeMethod
    alone: bool

    @property
    def name(self) -> str:
        """What it is called."""
        return self.method.name

    @property
    def source(self) -> str:
        """The paper."""
        return self.method.source

    @property
    def laws(self) -> frozenset[str]:
        """What the tests hold it to."""
        return self.method.laws

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Its parameters by name."""
        return self.method.parameters

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.method.summary


_transforms: dict[str, Transform] = {}


def vector_transform(
    *,
    source: str,
    acts_on: Literal["element", "matrix", "tensor"] = "element",
    folds: Folds = (),
    otherwise: Function | None = None,
    alone: bool = False,
    laws: Set[str] = frozenset(),
) -> Callable[[Function], Transform]:
    """Register the decorated function; see the module's docstring.

    Raises:
        ParameterError: a law that does not exist, or a name that is taken.
    """

    def register(function: Function) -> Transform:
        name = function.__name__
        for law in laws - LAWS:
            raise ParameterError(f"'{law}' is not a law of transforms.", f"they are {', '.join(sorted(LAWS))}.")
        if name in _transforms:
            home = _transforms[name].method.function.__module__
            raise ParameterError(f"a transform named '{name}' exists already, in {home}.")
        rest = None if otherwise is None else _method(otherwise, name, source, acts_on="element", laws=laws)
        method = _method(function, name, source, acts_on=acts_on, laws=laws, folds=folds, otherwise=rest)
        _transforms[name] = Transform(method, alone)
        return _transforms[name]

    return register


def _method(
    function: Function,
    name: str,
    source: str,
    *,
    acts_on: Literal["element", "matrix", "tensor"],
    laws: Set[str],
    folds: Folds = (),
    otherwise: MergeMethod | None = None,
) -> MergeMethod:
    injected = frozenset(k for k in INJECTED if k in inspect.signature(function).parameters)
    return MergeMethod(
        function=function, name=name, source=source, laws=frozenset(laws), acts_on=acts_on, space="vector",
        base="required", folds=folds, otherwise=otherwise, least=1, most=None, parameters=parameters_of(function),
        injected=injected,
    )  # fmt: skip


def _load() -> None:
    """Import every public module beside this one, in name order: a transform is its file."""
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if not module.startswith("_"):
            importlib.import_module(f"taskvec.transforms.{module}")


def names() -> list[str]:
    """The names of all registered transforms."""
    _load()
    return sorted(_transforms)


def get(name: str) -> Transform:
    """The transform registered under `name`.

    Raises:
        UnknownName: no such transform; the nearest is suggested.
    """
    _load()
    if name not in _transforms:
        raise UnknownName.among(f"no transform is named '{name}'.", name, _transforms)
    return _transforms[name]
