"""What a solver is: a function of a Gram matrix and a size, one a file; and the registry."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import torch
from jaxtyping import Float64
from torch import Tensor

from taskvec.basis.algebra import Matrix, best_decoder, norms_of, root
from taskvec.errors import ParameterError, UnknownName
from taskvec.vector import TaskVector

Online = Literal["recovered", "members", "nearest"]
Build = Callable[..., "list[TaskVector] | None"]


@final
@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """Vectors v_j = scales_j · τ_j by their Gram matrix, and how many vectors shall stand for them.

    `totals` are the c_j of the sum Σ c_j v_j that addition wants; `size` is None where the solver may choose.
    """

    gram: Float64[Tensor, "task task"]
    scales: Float64[Tensor, " task"]
    totals: Float64[Tensor, " task"]
    size: int | None
    factor: Matrix = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", root(self.gram))

    @classmethod
    def of(
        cls,
        gram: Float64[Tensor, "task task"],
        size: int | None,
        *,
        weights: Float64[Tensor, " task"] | None = None,
        totals: Float64[Tensor, " task"] | None = None,
        normalize: bool = False,
    ) -> Problem:
        """The problem for τ: every τ_j counts `weights[j]` times its norm, or (`normalize`) times 1.

        Raises:
            ParameterError: a weight that is not above 0.
        """
        if weights is not None and not bool((weights > 0.0).all()):
            raise ParameterError(f"weights: {float(weights.min()):g} is not above 0.", "leave the task out instead.")
        scales = torch.ones(len(gram), dtype=torch.float64) if weights is None else weights
        if normalize:
            norms = norms_of(gram)
            scales = scales / torch.where(norms > 0.0, norms, 1.0)
        wanted = torch.ones(len(gram), dtype=torch.float64) if totals is None else totals
        return cls(gram * scales[:, None] * scales[None, :], scales, wanted / scales, size)

    @property
    def wanted(self) -> int:
        """The size.

        Raises:
            ParameterError: none was given.
        """
        if self.size is None:
            raise ParameterError("size is not given.", "say how many vectors to keep; only 'cluster' chooses.")
        return self.size


@final
@dataclass(frozen=True, eq=False, slots=True)
class Codes:
    """A solver's answer: bases Σ_j encoder[j, m] v_j, tasks v_j ≈ Σ_m decoder[m, j] s_m, and what to report.

    `refit`: the vectors are made without the tasks, so that the decoder has to wait for their inner products.
    """

    encoder: Matrix
    decoder: Matrix
    report: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refit: bool = False


@final
@dataclass(frozen=True, eq=False, slots=True)
class Solver:
    """A registered solver.

    `online` says how a task is added later: the solver again, on the tasks as they are recovered; on the vectors kept
    and the new one; or the nearest vector moves. Vectors made without the tasks stay. `build` makes basis vectors that
    are not linear combinations of the tasks (None: they are).
    """

    name: str
    solve: Callable[..., Codes]
    source: str
    online: Online
    build: Build | None
    options: tuple[str, ...]

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse an unknown option.

        Raises:
            ParameterError: naming it, and the nearest one.
        """
        for key in options:
            if key not in self.options:
                unknown = UnknownName.among(f"basis '{self.name}' has no option '{key}'.", key, self.options)
                raise ParameterError(unknown.fact, unknown.fix)


_solvers: dict[str, Solver] = {}


def solver(
    *, source: str, online: Online = "recovered", build: Build | None = None
) -> Callable[[Callable[..., Codes]], Callable[..., Codes]]:
    """Decorator: register `solve(problem, *, option=…)` under the function's name (without a trailing underscore)."""

    def register(function: Callable[..., Codes]) -> Callable[..., Codes]:
        name = function.__name__.rstrip("_")
        parameters = inspect.signature(function).parameters.values()
        options = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        _solvers[name] = Solver(name, function, source, online, build, options)
        return function

    return register


def names() -> list[str]:
    """The names of all solvers."""
    folder = Path(__file__).parent / "solvers"
    for module in sorted(m.name for m in pkgutil.iter_modules([str(folder)])):
        importlib.import_module(f"taskvec.basis.solvers.{module}")
    return sorted(_solvers)


def get(name: str) -> Solver:
    """The solver registered under `name`.

    Raises:
        UnknownName: no such solver.
    """
    if name not in names():
        raise UnknownName.among(f"no basis method named '{name}'.", name, _solvers)
    return _solvers[name]


def keeping(problem: Problem, members: Sequence[int], report: Mapping[str, Any]) -> Codes:
    """These tasks as they are, and the others by least squares."""
    at, each = list(members), range(len(members))
    encoder = torch.zeros(len(problem.gram), len(at), dtype=torch.float64)
    encoder[at, each] = 1.0 / problem.scales[at]
    decoder = best_decoder(problem.factor, encoder)
    decoder[:, at] = 0.0
    decoder[each, at] = problem.scales[at]
    return Codes(encoder, decoder, {"members": at, **report})
