"""The addition protocol: merged vectors side by side, each at the scale that validation chooses and at scale 1."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from taskvec.evaluate.line import line
from taskvec.evaluate.patch import deltas_of
from taskvec.evaluate.record import Record, row_named
from taskvec.evaluate.scores import Scores, normalized
from taskvec.evaluate.scoring import Prepared
from taskvec.evaluate.search import search_scale
from taskvec.suites import Encoder
from taskvec.vector import TaskVector


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AdditionRow:
    """One merge: test scores at the chosen scale and at scale 1, absolute and normalized; validation's curve."""

    name: str
    scale: float
    scores: Scores
    normalized: Scores
    at_one: Scores
    curve: tuple[tuple[float, float], ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Addition(Record):
    """One row a merge, in the order given. `curve` holds (scale, mean normalized validation accuracy)."""

    rows: tuple[AdditionRow, ...]

    def __getitem__(self, name: str) -> AdditionRow:
        """The row of that name.

        Raises:
            UnknownName: there is none.
        """
        return row_named(self.rows, name)

    def plain(self) -> dict[str, Any]:
        """A list of rows: name, scale, mean and standard error, normalized mean, mean at scale 1, curve, tasks."""
        return {"addition": [_plain(row) for row in self.rows]}


def _plain(row: AdditionRow) -> dict[str, object]:
    return {
        "name": row.name,
        "scale": row.scale,
        "mean": row.scores.mean,
        "stderr": row.scores.mean_stderr,
        "normalized": row.normalized.mean,
        "mean_at_one": row.at_one.mean,
        "curve": [list(point) for point in row.curve],
        "tasks": [asdict(each) for each in row.scores.rows],
    }


def addition(
    encoder: Encoder,
    merged: Mapping[str, TaskVector],
    *,
    validation: Prepared,
    test: Prepared,
    single_validation: Scores,
    single_test: Scores,
    scales: Iterable[float],
    refine: int = 0,
    linear: bool = False,
    autocast: bool = False,
) -> Addition:
    """Scores base + scale × vector on all tasks, for every merged vector.

    The scale is the one of `scales` with the best mean normalized validation accuracy (arXiv:2305.12827); scale 1 is
    reported beside it, whether the grid has it or not. One resident model is moved, none is loaded again.

    Args:
        encoder: the base model; has its weights back afterwards.
        merged: label → merged task vector, at scale 1.
        validation: all tasks' inputs on which scales are chosen.
        test: all tasks' inputs on which the choice is reported.
        single_validation: the single-task models' scores on `validation`, of the regime of the vectors.
        single_test: their scores on `test`.
        scales: the grid.
        refine: so many more scales are tried between the best of the grid and its neighbors.
        linear: score the model to first order in its weights, as linear regimes train it.
        autocast: run the encoder in bfloat16.

    Raises:
        ParameterError: the grid is empty, or the single-task scores are of another split.
        NonFiniteError: a feature is not finite.
    """
    grid, rows = list(scales), []
    for name, vector in merged.items():
        delta = deltas_of(encoder, vector)
        found = search_scale(
            encoder,
            validation,
            delta,
            scales=grid,
            single=single_validation,
            refine=refine,
            linear=linear,
            autocast=autocast,
        )
        with line(encoder, test, delta, regime=single_test.regime, linear=linear, autocast=autocast) as at:
            best = at(found.scale)
            one = best if found.scale == 1.0 else at(1.0)
        curve = tuple((row.scale, row.objective) for row in found.rows)
        rows.append(
            AdditionRow(
                name=name,
                scale=found.scale,
                scores=best,
                normalized=normalized(best, single_test),
                at_one=one,
                curve=curve,
            )
        )
    return Addition(rows=tuple(rows))
