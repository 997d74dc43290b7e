"""The negation protocol: each task forgotten as far as a control task allows."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from taskvec.evaluate.line import line
from taskvec.evaluate.patch import deltas_of
from taskvec.evaluate.record import Record
from taskvec.evaluate.scores import Score
from taskvec.evaluate.scoring import Prepared
from taskvec.evaluate.search import only, search_negation
from taskvec.suites import Encoder
from taskvec.vector import TaskVector


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NegationRow:
    """One target: the chosen scale, and the test scores of target and control before and after."""

    target: str
    control: str
    scale: float
    target_before: Score
    target_after: Score
    control_before: Score
    control_after: Score


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Negation(Record):
    """One row a target."""

    rows: tuple[NegationRow, ...]

    @property
    def target(self) -> float:
        """Mean test accuracy of the targets after negation; lower is better."""
        return sum(row.target_after.value for row in self.rows) / len(self.rows)

    @property
    def control(self) -> float:
        """Mean test accuracy of the controls after negation; higher is better."""
        return sum(row.control_after.value for row in self.rows) / len(self.rows)

    def plain(self) -> dict[str, Any]:
        """The two means and the rows."""
        return {"target": self.target, "control": self.control, "negation": [asdict(row) for row in self.rows]}


def negation(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    *,
    controls: Mapping[str, str],
    validation: Prepared,
    test: Prepared,
    scales: Iterable[float],
    threshold: float = 0.95,
    regime: str = "standard",
    linear: bool = False,
    autocast: bool = False,
) -> Negation:
    """Scores base − scale × vector on target and control, for every task of `vectors` (arXiv:2212.04089).

    Args:
        encoder: the base model; has its weights back afterwards.
        vectors: target → the vector that is taken away.
        controls: target → the task that must keep `threshold` of its validation accuracy.
        validation: inputs on which scales are chosen; targets and controls at least.
        test: inputs on which the choice is reported.
        scales: the grid; must hold 0.
        threshold: the share of the control's accuracy at scale 0 that has to stay.
        regime: of the vectors, recorded with the scores.
        linear: score the model to first order in its weights, as linear regimes train it.
        autocast: run the encoder in bfloat16.

    Raises:
        ParameterError: the grid lacks 0, or a task is its own control. UnknownName: a task that was not prepared.
    """
    grid, rows = list(scales), list[NegationRow]()
    for target, vector in vectors.items():
        delta, control = deltas_of(encoder, vector), controls[target]
        found = search_negation(
            encoder,
            validation,
            delta,
            target=target,
            control=control,
            scales=grid,
            threshold=threshold,
            regime=regime,
            linear=linear,
            autocast=autocast,
        )
        rows += negated_at(
            encoder,
            vector,
            target,
            control,
            test=test,
            scales=[found.scale],
            regime=regime,
            linear=linear,
            autocast=autocast,
        )
    return Negation(rows=tuple(rows))


def negated_at(
    encoder: Encoder,
    vector: TaskVector,
    target: str,
    control: str,
    *,
    test: Prepared,
    scales: Iterable[float],
    regime: str = "standard",
    linear: bool = False,
    autocast: bool = False,
) -> tuple[NegationRow, ...]:
    """Scores base − scale × vector on target and control, at each of these scales; arguments as in `negation`.

    Raises:
        UnknownName: a task that was not prepared.
    """
    delta = deltas_of(encoder, vector)
    two = Prepared(suite=test.suite, split=test.split, tasks=only(test, (target, control)))
    with line(encoder, two, delta, regime=regime, linear=linear, autocast=autocast) as at:
        before, after = at(0.0), [(scale, at(-scale)) for scale in scales]
    return tuple(
        NegationRow(
            target=target,
            control=control,
            scale=scale,
            target_before=before[target],
            target_after=found[target],
            control_before=before[control],
            control_after=found[control],
        )
        for scale, found in after
    )
