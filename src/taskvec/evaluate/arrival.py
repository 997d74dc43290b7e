"""Online arrival: tasks come one by one, and after each the vectors so far are merged anew."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from taskvec.evaluate.addition import addition
from taskvec.evaluate.record import Record
from taskvec.evaluate.scores import Scores
from taskvec.evaluate.scoring import Prepared
from taskvec.evaluate.search import only
from taskvec.suites import Encoder
from taskvec.vector import TaskVector

Merge = Callable[[Mapping[str, TaskVector]], TaskVector]
"""From the vectors so far, in order of arrival, to one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalRow:
    """After one arrival: test scores of the tasks that have come, at the scale chosen on their validation inputs."""

    arrived: str
    scale: float
    scores: Scores
    normalized: Scores


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival(Record):
    """One row an arrival, in order."""

    rows: tuple[ArrivalRow, ...]

    def plain(self) -> dict[str, Any]:
        """A list of rows: task, how many have come, scale, mean, standard error, normalized mean, tasks."""
        return {"arrival": [_plain(i, row) for i, row in enumerate(self.rows, start=1)]}


def _plain(count: int, row: ArrivalRow) -> dict[str, object]:
    return {
        "arrived": row.arrived,
        "count": count,
        "scale": row.scale,
        "mean": row.scores.mean,
        "stderr": row.scores.mean_stderr,
        "normalized": row.normalized.mean,
        "tasks": [asdict(each) for each in row.scores.rows],
    }


def arrival(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    merge: Merge,
    *,
    validation: Prepared,
    test: Prepared,
    single_validation: Scores,
    single_test: Scores,
    scales: Iterable[float],
    linear: bool = False,
    autocast: bool = False,
) -> Arrival:
    """Adds the tasks in the order of `vectors` and scores all that have come, after each; arguments as in `addition`.

    Args:
        encoder: the base model; has its weights back afterwards.
        vectors: task → vector, in order of arrival.
        merge: e.g. `lambda some: tv.merge("ties", some)`, or the recovery from a basis that is kept up to date.
        validation: inputs of these tasks.
        test: inputs of these tasks.
        single_validation: see `addition`.
        single_test: see `addition`.
        scales: the grid.
        linear: see `addition`.
        autocast: see `addition`.

    Raises:
        UnknownName: a task that was not prepared. ParameterError: the grid is empty.
    """
    grid, rows, so_far = list(scales), [], dict[str, TaskVector]()
    for name, vector in vectors.items():
        so_far[name] = vector
        inputs = [Prepared(suite=p.suite, split=p.split, tasks=only(p, so_far)) for p in (validation, test)]
        (row,) = addition(
            encoder,
            {name: merge(dict(so_far))},
            validation=inputs[0],
            test=inputs[1],
            single_validation=single_validation,
            single_test=single_test,
            scales=grid,
            linear=linear,
            autocast=autocast,
        ).rows
        rows.append(ArrivalRow(arrived=name, scale=row.scale, scores=row.scores, normalized=row.normalized))
    return Arrival(rows=tuple(rows))
