"""Analogies: "A is to B as C is to D", so C + (B − A) should know D without an example of it (arXiv:2212.04089)."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from taskvec.errors import ParameterError, UnknownName
from taskvec.evaluate.line import line
from taskvec.evaluate.patch import deltas_of
from taskvec.evaluate.record import Record
from taskvec.evaluate.scores import Score
from taskvec.evaluate.scoring import Prepared
from taskvec.evaluate.search import only, search_accuracy
from taskvec.suites import Encoder
from taskvec.vector import TaskVector

Quadruple = tuple[str, str, str, str]
"""The tasks (A, B, C, D)."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledScore:
    """The test score of a vector at the scale that validation chose."""

    scale: float
    score: Score


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AnalogyRow:
    """One analogy, scored on D: the base, C alone, B alone, the analogy, and D's own vector (if there is one)."""

    a: str
    b: str
    c: str
    target: str
    base: Score
    c_alone: ScaledScore
    b_alone: ScaledScore
    analogy: ScaledScore
    tuned: Score | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Analogies(Record):
    """One row a quadruple."""

    rows: tuple[AnalogyRow, ...]

    def plain(self) -> dict[str, Any]:
        """The rows."""
        return {"analogy": [asdict(row) for row in self.rows]}


def analogies(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    quadruples: Iterable[Quadruple],
    *,
    validation: Prepared,
    test: Prepared,
    scales: Iterable[float],
    linear: bool = False,
    autocast: bool = False,
) -> Analogies:
    """Scores base + scale × (τ_C + τ_B − τ_A) on D; τ_D is used for the comparison alone.

    Args:
        encoder: the base model; has its weights back afterwards.
        vectors: task → vector; A, B and C at least.
        quadruples: which tasks.
        validation: inputs of every D, on which scales are chosen (of the parts alone, too).
        test: inputs of every D, on which the choice is reported.
        scales: the grid.
        linear: score the model to first order.
        autocast: run the encoder in bfloat16.

    Raises:
        UnknownName: a task without a vector, or a D that was not prepared.
        ParameterError: D is among A, B and C, or the grid is empty.
    """
    grid, rows = list(scales), []
    for a, b, c, target in quadruples:
        if target in (a, b, c):
            raise ParameterError(f"the analogy's target '{target}' is one of its parts.", "choose another target.")
        for name in (a, b, c):
            if name not in vectors:
                raise UnknownName.among(f"there is no vector of the task '{name}'.", name, vectors)
        inputs = [Prepared(suite=p.suite, split=p.split, tasks=only(p, (target,))) for p in (validation, test)]

        def at_best(vector: TaskVector, inputs: list[Prepared] = inputs, target: str = target) -> ScaledScore:
            delta = deltas_of(encoder, vector)
            scale = search_accuracy(encoder, inputs[0], delta, scales=grid, linear=linear, autocast=autocast).scale
            with line(encoder, inputs[1], delta, linear=linear, autocast=autocast) as at:
                return ScaledScore(scale=scale, score=at(scale)[target])

        own = deltas_of(encoder, vectors[target]) if target in vectors else {}
        with line(encoder, inputs[1], own, linear=linear, autocast=autocast) as at:
            base, tuned = at(0.0)[target], at(1.0)[target]
        rows.append(
            AnalogyRow(
                a=a,
                b=b,
                c=c,
                target=target,
                base=base,
                c_alone=at_best(vectors[c]),
                b_alone=at_best(vectors[b]),
                analogy=at_best(vectors[c] + vectors[b] - vectors[a]),
                tuned=tuned if target in vectors else None,
            )
        )
    return Analogies(rows=tuple(rows))
