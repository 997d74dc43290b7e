"""Choosing a scale on validation data, with one resident model."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from torch import Tensor

from taskvec.errors import ParameterError, UnknownName
from taskvec.evaluate.line import line
from taskvec.evaluate.record import Record
from taskvec.evaluate.scores import Scores, normalized
from taskvec.evaluate.scoring import Prepared, PreparedTask
from taskvec.evaluate.selection import (
    ACCURACY_RULE,
    BEST_MEAN_RULE,
    NEGATION_RULE,
    around,
    choose_best,
    choose_negation,
)
from taskvec.suites import Encoder


@final
@dataclass(frozen=True, slots=True)
class ScaleRow:
    """What validation said at one scale; `objective` is what the rule looked at."""

    scale: float
    objective: float
    scores: Scores


@final
@dataclass(frozen=True, slots=True)
class ScaleSearch(Record):
    """The chosen scale, the rule that chose it, and the whole grid."""

    scale: float
    rule: str
    rows: tuple[ScaleRow, ...]

    def plain(self) -> dict[str, Any]:
        """Scale, rule and the rows (scale, objective, one score a task)."""
        return asdict(self)


def search_scale(
    encoder: Encoder,
    prepared: Prepared,
    delta: Mapping[str, Tensor],
    *,
    scales: Iterable[float],
    single: Scores,
    refine: int = 0,
    linear: bool = False,
    autocast: bool = False,
) -> ScaleSearch:
    """The scale at which base + scale × delta has the best mean normalized accuracy on the prepared inputs.

    `encoder` holds the base weights; it is moved from scale to scale and has its weights back afterwards.

    Args:
        encoder: the base model.
        prepared: validation inputs, from `prepare(..., split="val")`.
        delta: name → float32 tensor, e.g. a merged task vector; names that are missing do not move.
        scales: the grid.
        single: the single-task models' scores on the same inputs; their regime is that of the result.
        refine: so many more scales are tried between the best of the grid and its neighbors.
        linear: score the model to first order in its weights, as linear regimes train it.
        autocast: as in `evaluate`.

    Raises:
        ParameterError: the grid is empty, the inputs are test data, or `single` is of another split.
    """
    grid = _grid(scales, prepared)
    rows: list[ScaleRow] = []

    def best() -> float:
        return choose_best([row.scale for row in rows], [row.objective for row in rows])

    with line(encoder, prepared, delta, regime=single.regime, linear=linear, autocast=autocast) as at:
        for finer in (False, True):
            for scale in around(grid, best(), refine) if finer else grid:
                scores = at(scale)
                rows.append(ScaleRow(scale, normalized(scores, single).mean, scores))
    return ScaleSearch(best(), BEST_MEAN_RULE, tuple(sorted(rows, key=lambda row: row.scale) if refine else rows))


def search_accuracy(
    encoder: Encoder,
    prepared: Prepared,
    delta: Mapping[str, Tensor],
    *,
    scales: Iterable[float],
    regime: str = "standard",
    linear: bool = False,
    autocast: bool = False,
) -> ScaleSearch:
    """The scale at which base + scale × delta has the best mean accuracy on the prepared inputs; see `search_scale`.

    Raises:
        ParameterError: the grid is empty, or the inputs are test data.
    """
    grid = _grid(scales, prepared)
    with line(encoder, prepared, delta, regime=regime, linear=linear, autocast=autocast) as at:
        found = [(scale, at(scale)) for scale in grid]
    rows = tuple(ScaleRow(scale, scores.mean, scores) for scale, scores in found)
    return ScaleSearch(choose_best(grid, [row.objective for row in rows]), ACCURACY_RULE, rows)


def search_negation(
    encoder: Encoder,
    prepared: Prepared,
    delta: Mapping[str, Tensor],
    *,
    target: str,
    control: str,
    scales: Iterable[float],
    threshold: float = 0.95,
    regime: str = "standard",
    linear: bool = False,
    autocast: bool = False,
) -> ScaleSearch:
    """The scale at which base − scale × delta forgets the task `target` most while `control` keeps its accuracy.

    Keeping means at least `threshold` of the accuracy at scale 0, which must be in the grid. Source: the negation
    protocol of arXiv:2212.04089. `prepared` needs these two tasks only; other arguments as in `search_scale`.

    Raises:
        ParameterError: 0 is not in the grid, target and control are the same, or the inputs are test data.
        UnknownName: target or control is not among the prepared tasks.
    """
    grid = _grid(scales, prepared)
    if target == control:
        raise ParameterError(f"the task '{target}' cannot be its own control.", "choose another control task.")
    if 0 not in grid:
        raise ParameterError(
            f"the grid of scales {grid} lacks 0, where the control's base accuracy is measured.", "add 0 to it."
        )
    two = Prepared(suite=prepared.suite, split=prepared.split, tasks=only(prepared, (target, control)))
    backwards = {name: -change for name, change in delta.items()}
    with line(encoder, two, backwards, regime=regime, linear=linear, autocast=autocast) as at:
        found = [(scale, at(scale)) for scale in grid]
    rows = tuple(ScaleRow(scale, scores[target].value, scores) for scale, scores in found)
    targets, controls = zip(*((row.objective, row.scores[control].value) for row in rows), strict=True)
    return ScaleSearch(choose_negation(grid, targets, controls, threshold=threshold), NEGATION_RULE, rows)


def _grid(scales: Iterable[float], prepared: Prepared) -> list[float]:
    grid = [float(scale) for scale in scales]
    if not grid:
        raise ParameterError("the grid of scales is empty.", "give at least one scale.")
    if prepared.split == "test":
        raise ParameterError("a scale may not be chosen on the split 'test'.", 'prepare the split "val".')
    return grid


def only(prepared: Prepared, names: Iterable[str]) -> tuple[PreparedTask, ...]:
    """Some of the prepared tasks, in the order of `names`.

    Raises:
        UnknownName: one was not prepared.
    """
    by_name = {each.task.name: each for each in prepared.tasks}
    for name in names:
        if name not in by_name:
            raise UnknownName.among(f"the task '{name}' was not prepared.", name, by_name)
    return tuple(by_name[name] for name in names)
