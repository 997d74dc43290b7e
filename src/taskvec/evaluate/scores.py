"""Scores with standard errors: frozen data, one row a task."""

import math
from dataclasses import asdict, dataclass
from typing import Any, final

from jaxtyping import Bool
from torch import Tensor

from taskvec.errors import ParameterError, UnknownName
from taskvec.evaluate.record import Record


@final
@dataclass(frozen=True, slots=True)
class Score(Record):
    """A mean of n outcomes in [0, 1] and its standard error."""

    task: str
    value: float
    stderr: float
    n: int

    def plain(self) -> dict[str, Any]:
        """The four fields."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scores(Record):
    """One row a task. `regime` is how the scored weights were fine-tuned; scores of two regimes do not mix.

    `scores["which_library"]` is a row; `mean` and `mean_stderr` treat the tasks as independent.
    """

    rows: tuple[Score, ...]
    suite: str
    split: str
    regime: str

    def __getitem__(self, task: str) -> Score:
        for row in self.rows:
            if row.task == task:
                return row
        raise UnknownName.among(f"there is no score of a task '{task}'.", task, self.names())

    def names(self) -> tuple[str, ...]:
        """The tasks' names, in order."""
        return tuple(row.task for row in self.rows)

    @property
    def mean(self) -> float:
        """Mean of the tasks' values, every task counting the same."""
        return math.fsum(row.value for row in self.rows) / len(self.rows)

    @property
    def mean_stderr(self) -> float:
        """Standard error of `mean`: sqrt(Σ stderr²) / T."""
        return math.sqrt(math.fsum(row.stderr**2 for row in self.rows)) / len(self.rows)

    def plain(self) -> dict[str, Any]:
        """Suite, split, regime, mean with its standard error, and the list of rows."""
        return {**asdict(self), "mean": self.mean, "mean_stderr": self.mean_stderr}


def score_of(task: str, outcomes: Bool[Tensor, " input"]) -> Score:
    """Mean p of n outcomes of 0 or 1, with the standard error sqrt(p (1 − p) / n).

    Raises:
        ParameterError: there are no outcomes.
    """
    n = outcomes.numel()
    if n == 0:
        raise ParameterError(f"task '{task}' has no outcomes to average.")
    p = int(outcomes.sum()) / n
    return Score(task, p, math.sqrt(p * (1 - p) / n), n)


def normalized(scores: Scores, single: Scores) -> Scores:
    """Each score divided by the single-task score of the same task, regime and split.

    1.0 means: as good as the model fine-tuned on this task alone. The denominators are taken as exact, so the
    standard errors are divided by them too.

    Raises:
        ParameterError: regimes, splits or suites differ, or a single-task score is 0.
        UnknownName: `single` lacks a task.
    """
    for field in ("suite", "split", "regime"):
        ours, theirs = getattr(scores, field), getattr(single, field)
        if ours != theirs:
            raise ParameterError(
                f"scores of the {field} '{ours}' cannot be normalized by single-task scores of the {field} '{theirs}'.",
                f"evaluate the single-task models with the {field} '{ours}'.",
            )
    rows = tuple(_ratio(row, single[row.task]) for row in scores.rows)
    return Scores(rows=rows, suite=scores.suite, split=scores.split, regime=scores.regime)


def _ratio(row: Score, single: Score) -> Score:
    if single.value == 0:
        raise ParameterError(f"the single-task score of '{row.task}' is 0 and cannot normalize another.")
    return Score(row.task, row.value / single.value, row.stderr / single.value, row.n)
