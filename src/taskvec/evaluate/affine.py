"""Linear regimes: features are affine in the coefficients, so one pass a vector gives every point of every grid."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taskvec.errors import NonFiniteError
from taskvec.evaluate.metrics import metric_of
from taskvec.evaluate.patch import deltas_of
from taskvec.evaluate.scores import Scores, score_of
from taskvec.evaluate.scoring import Prepared, PreparedTask
from taskvec.suites import Encoder
from taskvec.suites.linearize import Derivative, LinearizedEncoder
from taskvec.vector import TaskVector


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AffineTask:
    """The features of one task's inputs at θ0, and how each vector moves them; in the order of the inputs."""

    prepared: PreparedTask
    start: Float[Tensor, "input dim"]
    moves: Mapping[str, Float[Tensor, "input dim"]]

    def logits(self, coefficients: Mapping[str, float]) -> Float[Tensor, "input class"]:
        """Those of f(x; θ0) + Σ c_v J(x) τ_v."""
        features = self.start.clone()
        for name, coefficient in coefficients.items():
            features.add_(self.moves[name], alpha=coefficient)
        return self.prepared.head.logits(features)

    def predictions(self, coefficients: Mapping[str, float]) -> Int[Tensor, " input"]:
        """The class of each input."""
        return self.logits(coefficients).argmax(dim=-1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """All tasks; `scores({"math": 0.4})` costs a few matrix sums."""

    tasks: tuple[AffineTask, ...]
    suite: str
    split: str
    regime: str

    def scores(self, coefficients: Mapping[str, float]) -> Scores:
        """Scores of f(x; θ0) + Σ c_v J(x) τ_v on every task."""
        rows = tuple(
            score_of(
                each.prepared.task.name,
                metric_of(each.prepared.task.metric)(each.logits(coefficients), each.prepared.labels),
            )
            for each in self.tasks
        )
        return Scores(rows=rows, suite=self.suite, split=self.split, regime=self.regime)


def affine(
    encoder: Encoder,
    prepared: Prepared,
    vectors: Mapping[str, TaskVector],
    *,
    regime: str = "tangent",
    derivative: Derivative = "forward",
) -> Affine:
    """One forward-mode pass a vector over the prepared inputs.

    Args:
        encoder: the base model, θ0.
        prepared: the inputs.
        vectors: task vectors, merged or not; also those of ordinary fine-tuning (regime "posthoc").
        regime: recorded with the scores, so that they are normalized by single-task scores of the same kind.
        derivative: see `linearize`.

    Raises:
        NonFiniteError: a feature is not finite. ParameterError: no forward-mode derivative.
    """
    deltas = {name: deltas_of(encoder, vector) for name, vector in vectors.items()}
    return affine_along(encoder, prepared, deltas, regime=regime, derivative=derivative)


def affine_along(
    encoder: Encoder,
    prepared: Prepared,
    deltas: Mapping[str, Mapping[str, Tensor]],
    *,
    regime: str = "tangent",
    derivative: Derivative = "forward",
) -> Affine:
    """The same for deltas, name → float32 tensor each."""
    model = LinearizedEncoder(origin=encoder, tau={}, derivative=derivative)
    tasks = tuple(_task(model, each, deltas) for each in prepared.tasks)
    return Affine(tasks=tasks, suite=prepared.suite, split=prepared.split, regime=regime)


def _task(model: LinearizedEncoder, prepared: PreparedTask, deltas: Mapping[str, Mapping[str, Tensor]]) -> AffineTask:
    starts: list[Tensor] = []
    moves: dict[str, list[Tensor]] = {name: [] for name in deltas}
    for batch in prepared.inputs.batches:
        start = None
        for name, delta in deltas.items():
            start, move = model.parts(batch, delta)
            moves[name].append(move)
        starts.append(model.parts(batch, {})[0] if start is None else start)
    order = torch.cat(list(prepared.inputs.positions)).argsort()
    found = {name: torch.cat(parts)[order] for name, parts in moves.items()}
    first = torch.cat(starts)[order]
    for name, values in {"the base": first, **found}.items():
        if not values.isfinite().all():
            raise NonFiniteError(f"the features of task '{prepared.task.name}' are not finite along {name}.")
    return AffineTask(prepared=prepared, start=first, moves=found)
