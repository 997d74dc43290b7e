"""The disentanglement error ξ(α1, α2): how often a second task vector changes a task's predictions."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from torch import Tensor

from taskvec.errors import ParameterError, SchemaError
from taskvec.evaluate.affine import affine_along
from taskvec.evaluate.patch import combined, deltas_of, resident
from taskvec.evaluate.record import Record
from taskvec.evaluate.scoring import Prepared, prepare
from taskvec.evaluate.search import only
from taskvec.suites import Encoder, Suite, logits_of
from taskvec.suites.linearize import Derivative
from taskvec.vector import TaskVector

Moves = tuple[tuple[str, float], ...]
Predict = Callable[[str, Moves], Tensor]
"""From a task and the coefficients of vectors to the classes of its inputs."""


@final
@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One point of the map: ξ is the sum of its two terms, in [0, 2]; each is a share of inputs."""

    first: float
    second: float
    error: float
    first_term: float
    second_term: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Disentanglement(Record):
    """ξ of two tasks over a grid of coefficients; `error(a, b)` is one point."""

    tasks: tuple[str, str]
    regime: str
    rows: tuple[ErrorRow, ...]

    def error(self, first: float, second: float) -> float:
        """ξ at a point of the grid.

        Raises:
            ParameterError: the map has no such point.
        """
        for row in self.rows:
            if (row.first, row.second) == (first, second):
                return row.error
        raise ParameterError(f"the map has no point ({first:g}, {second:g}).", "ask for one of its grid.")

    @property
    def mean(self) -> float:
        """The mean of ξ over the grid."""
        return sum(row.error for row in self.rows) / len(self.rows)

    def plain(self) -> dict[str, Any]:
        """Tasks, regime, form ("sum, in [0, 2]"), mean and the rows."""
        record = {"tasks": self.tasks, "regime": self.regime, "form": "sum, in [0, 2]", "mean": self.mean}
        return {**record, "disentanglement": [asdict(row) for row in self.rows]}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DisentanglementPairs(Record):
    """One map a pair of tasks, in order."""

    regime: str
    grid: tuple[float, ...]
    maps: tuple[Disentanglement, ...]

    @property
    def mean(self) -> float:
        """The mean of all maps' means."""
        return sum(each.mean for each in self.maps) / len(self.maps)

    def plain(self) -> dict[str, Any]:
        """Regime, grid, form, mean, and a row a pair: first, second, mean, largest ξ, ξ(1, 1) where the grid has it."""
        rows = [
            {
                "first": each.tasks[0],
                "second": each.tasks[1],
                "mean": each.mean,
                "largest": max(row.error for row in each.rows),
                "at_one": each.error(1.0, 1.0) if 1.0 in self.grid else None,
            }
            for each in self.maps
        ]
        record = {"regime": self.regime, "grid": list(self.grid), "form": "sum, in [0, 2]", "mean": self.mean}
        return {**record, "pairs": rows}


def disentanglement(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    suite: Suite | Prepared,
    grid: Sequence[float],
    *,
    regime: Literal["standard", "linear"] = "standard",
    derivative: Derivative = "forward",
    autocast: bool = False,
) -> Disentanglement:
    """ξ(α1, α2) = Σ_t P[prediction at α_t τ_t ≠ prediction at α1 τ1 + α2 τ2] over the inputs of the two tasks.

    No label is used. In the linear regime the whole map costs one forward-mode pass a vector over the inputs
    (arXiv:2305.12827); in the standard one, (n² + 2n) forwards of both tasks' inputs.

    Args:
        encoder: the base model; has its weights back afterwards.
        vectors: the two tasks' names → their vectors.
        suite: the suite of the two tasks, whose test inputs are used, or prepared inputs of these tasks at least.
        grid: values of both coefficients, e.g. 25 points in [−3, 3].
        regime: "linear" evaluates the model to first order, whatever the vectors were trained with.
        derivative: of the linear regime; see `linearize`.
        autocast: run the standard forward in bfloat16.

    Raises:
        ParameterError: not two vectors, or an empty grid. UnknownName: a task that the suite does not have.
        SchemaError: a vector that moves nothing of the model.
    """
    if len(vectors) != 2:
        raise ParameterError(f"the map is of two tasks; {len(vectors)} vectors were given.", "choose two.")
    if not grid:
        raise ParameterError("the grid of coefficients is empty.", "give at least one.")
    predict = _predictor(encoder, vectors, suite, regime=regime, derivative=derivative, autocast=autocast)
    first, second = vectors
    return _map(functools.cache(predict), (first, second), grid, regime)


def disentanglement_pairs(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    suite: Suite | Prepared,
    grid: Sequence[float] = (1.0,),
    *,
    regime: Literal["standard", "linear"] = "standard",
    derivative: Derivative = "forward",
    autocast: bool = False,
) -> DisentanglementPairs:
    """ξ of all pairs of tasks, summarized; the forwards of single vectors are shared by the pairs.

    Arguments as in `disentanglement`, with two vectors or more; the linear regime costs one pass a vector over the
    inputs of all tasks, the standard one n² forwards a pair.

    Raises:
        ParameterError: fewer than two vectors, or an empty grid; and as in `disentanglement`.
    """
    if len(vectors) < 2:
        raise ParameterError(f"pairs are of two tasks; {len(vectors)} vectors were given.", "give at least two.")
    if not grid:
        raise ParameterError("the grid of coefficients is empty.", "give at least one.")
    predict = functools.cache(
        _predictor(encoder, vectors, suite, regime=regime, derivative=derivative, autocast=autocast)
    )
    maps = tuple(_map(predict, pair, grid, regime) for pair in itertools.combinations(vectors, 2))
    return DisentanglementPairs(regime=regime, grid=tuple(grid), maps=maps)


def _map(predict: Predict, pair: tuple[str, str], grid: Sequence[float], regime: str) -> Disentanglement:
    rows = []
    for a, b in itertools.product(grid, repeat=2):
        both, terms = dict(zip(pair, (a, b), strict=True)), []
        for task in pair:
            moved, alone = predict(task, _moves(both)), predict(task, _moves({task: both[task]}))
            terms.append(float((moved != alone).double().mean()))
        rows.append(ErrorRow(a, b, sum(terms), terms[0], terms[1]))
    return Disentanglement(tasks=pair, regime=regime, rows=tuple(rows))


def _moves(coefficients: Mapping[str, float]) -> Moves:
    """What moves at all, so that equal points are computed once."""
    return tuple((name, value) for name, value in coefficients.items() if value)


def _predictor(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    suite: Suite | Prepared,
    *,
    regime: str,
    derivative: Derivative,
    autocast: bool,
) -> Predict:
    deltas = {name: deltas_of(encoder, vector) for name, vector in vectors.items()}
    for name, delta in deltas.items():
        if not delta:
            raise SchemaError(f"the vector '{name}' moves no tensor of the model.", "give a vector of this model.")
    prepared = prepare(encoder, suite, split="test", tasks=vectors) if isinstance(suite, Suite) else suite
    chosen = Prepared(suite=prepared.suite, split=prepared.split, tasks=only(prepared, vectors))
    if regime == "linear":
        found = affine_along(encoder, chosen, deltas, derivative=derivative)
        linear = {each.prepared.task.name: each for each in found.tasks}
        return lambda task, moves: linear[task].predictions(dict(moves))
    tasks = {each.task.name: each for each in chosen.tasks}

    def predict(task: str, moves: Moves) -> Tensor:
        with resident(encoder.module, combined(deltas, dict(moves))) as move:
            move(1.0)
            each = tasks[task]
            return logits_of(each.head, each.inputs, encoder.features, autocast=autocast).argmax(dim=-1)

    return predict
