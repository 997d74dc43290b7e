"""The non-linear advantage: what ordinary fine-tuning gains over tangent fine-tuning, by task (arXiv:2305.12827)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from taskvec.errors import ParameterError, UnknownName
from taskvec.evaluate.record import Record
from taskvec.evaluate.scores import Scores


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageRow:
    """(accuracy − linear accuracy) / (1 − 1/C), in [−C/(C − 1), C/(C − 1)]; 1 is from chance to perfect.

    The standard error takes the two accuracies as independent, which overstates it when they are of the same inputs.
    """

    name: str
    value: float
    stderr: float
    classes: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Advantage(Record):
    """One row a task."""

    rows: tuple[AdvantageRow, ...]

    @property
    def mean(self) -> float:
        """Mean over the tasks."""
        return math.fsum(row.value for row in self.rows) / len(self.rows)

    def plain(self) -> dict[str, Any]:
        """The mean and the rows."""
        return {"mean": self.mean, "nonlinear_advantage": [asdict(row) for row in self.rows]}


def nonlinear_advantage(nonlinear: Scores, linear: Scores, classes: Mapping[str, int]) -> Advantage:
    """The advantage of `nonlinear` over `linear`, each of its own regime, on the same suite and split.

    Args:
        nonlinear: accuracies of ordinary fine-tuning, one task a row.
        linear: those of the same tasks to first order.
        classes: task → C, e.g. `{t.name: len(t.classes) for t in suite.tasks}`.

    Raises:
        ParameterError: scores of another suite or split, or of one class. UnknownName: a task that one of them lacks.
    """
    for field in ("suite", "split"):
        ours, theirs = getattr(nonlinear, field), getattr(linear, field)
        if ours != theirs:
            raise ParameterError(f"scores of the {field} '{ours}' and '{theirs}' cannot be compared.")
    rows = []
    for row in nonlinear.rows:
        if row.task not in classes:
            raise UnknownName.among(f"the number of classes of '{row.task}' is not known.", row.task, classes)
        count, other = classes[row.task], linear[row.task]
        if count < 2:
            raise ParameterError(f"the task '{row.task}' has {count} classes; chance would be right.", "at least two.")
        room = 1 - 1 / count
        stderr = math.hypot(row.stderr, other.stderr) / room
        rows.append(AdvantageRow(name=row.task, value=(row.value - other.value) / room, stderr=stderr, classes=count))
    return Advantage(rows=tuple(rows))
