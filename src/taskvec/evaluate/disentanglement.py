"""The disentanglement error ξ(α1, α2): how often a second task vector changes a task's predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from torch import Tensor

from taskvec.errors import ParameterError, SchemaError
from taskvec.evaluate.affine import affine
from taskvec.evaluate.patch import deltas_of, resident
from taskvec.evaluate.record import Record
from taskvec.evaluate.scoring import Prepared, prepare
from taskvec.evaluate.search import only
from taskvec.suites import Encoder, Suite, logits_of
from taskvec.suites.linearize import Derivative
from taskvec.vector import TaskVector

Predict = Callable[[str, float, float], Tensor]


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
    first, second = vectors
    prepared = prepare(encoder, suite, split="test", tasks=vectors) if isinstance(suite, Suite) else suite
    two = Prepared(suite=prepared.suite, split=prepared.split, tasks=only(prepared, (first, second)))
    if regime == "linear":
        predict = _linear(encoder, two, vectors, derivative)
    else:
        predict = _standard(encoder, two, vectors, autocast)
    alone = {(t, a): predict(t, a if t == first else 0.0, a if t == second else 0.0) for t in vectors for a in grid}
    rows = []
    for a in grid:
        for b in grid:
            terms = [
                float((predict(task, a, b) != alone[task, own]).double().mean())
                for task, own in ((first, a), (second, b))
            ]
            rows.append(ErrorRow(a, b, sum(terms), terms[0], terms[1]))
    return Disentanglement(tasks=(first, second), regime=regime, rows=tuple(rows))


def _linear(encoder: Encoder, two: Prepared, vectors: Mapping[str, TaskVector], derivative: Derivative) -> Predict:
    found = affine(encoder, two, vectors, derivative=derivative)
    by_name = {each.prepared.task.name: each for each in found.tasks}
    first, second = vectors
    return lambda task, a, b: by_name[task].predictions({first: a, second: b})


def _standard(encoder: Encoder, two: Prepared, vectors: Mapping[str, TaskVector], autocast: bool) -> Predict:
    deltas = {name: deltas_of(encoder, vector) for name, vector in vectors.items()}
    for name, delta in deltas.items():
        if not delta:
            raise SchemaError(f"the vector '{name}' moves no tensor of the model.", "give a vector of this model.")
    by_name = {each.task.name: each for each in two.tasks}
    first, second = deltas.values()

    def predict(task: str, a: float, b: float) -> Tensor:
        names = first.keys() | second.keys()
        moved = {n: sum(c * d[n] for c, d in ((a, first), (b, second)) if n in d) for n in sorted(names)}
        with resident(encoder.module, moved) as move:  # type: ignore[arg-type]  # no sum here is the int 0
            move(1.0)
            each = by_name[task]
            return logits_of(each.head, each.inputs, encoder.features, autocast=autocast).argmax(dim=-1)

    return predict
