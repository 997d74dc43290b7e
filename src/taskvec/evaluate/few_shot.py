"""Out of distribution, few shots: coefficients of a library of vectors for a task that none of them was tuned on."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from torch import Tensor

from taskvec.errors import ParameterError
from taskvec.evaluate.line import line
from taskvec.evaluate.objective import objective_of
from taskvec.evaluate.patch import combined, deltas_of
from taskvec.evaluate.record import Record
from taskvec.evaluate.scores import Score
from taskvec.evaluate.scoring import PreparedTask, prepare
from taskvec.suites import Encoder, Head, Split, Suite, Task
from taskvec.vector import TaskVector

FEW_SHOT_GRID = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FewShot(Record):
    """The coefficients that few examples chose, the loss on these (nats), and the test scores before and after."""

    target: str
    shots: int
    coefficients: Mapping[str, float]
    loss_before: float
    loss_after: float
    before: Score
    after: Score

    def plain(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def few_shots(task: Task, shots: int, *, seed: int = 0) -> Split:
    """`shots` training examples of each class (all that a class has, if fewer), drawn by the seed.

    Raises:
        ParameterError: fewer than one, or an empty training split.
    """
    if shots < 1:
        raise ParameterError(f"shots={shots} is below 1.")
    train = task.split("train")
    order = list(range(len(train)))
    random.Random(seed).shuffle(order)
    kept = [i for c in range(len(task.classes)) for i in [j for j in order if train.labels[j] == c][:shots]]
    return Split(tuple(train.texts[i] for i in kept), tuple(train.labels[i] for i in kept))


def few_shot(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    suite: Suite,
    target: str,
    *,
    heads: Mapping[str, Head],
    shots: int = 16,
    grid: Iterable[float] = FEW_SHOT_GRID,
    sweeps: int = 2,
    seed: int = 0,
    limit: int | None = None,
    autocast: bool = False,
) -> FewShot:
    """Base + Σ c_v τ_v for a held-out task: each c in turn takes the value of the grid with the least few-shot loss.

    Coordinate descent from c = 0 on the mean cross-entropy of `shots` training examples a class; a value replaces the
    present one only if it is better, so the loss never rises. (v · |grid| · sweeps) losses at most; ends early when a
    sweep changes nothing.

    Args:
        encoder: the base model.
        vectors: name → vector, none of them of the target.
        suite: has the target.
        target: the held-out task.
        heads: as `heads_of(suite)` gives them.
        shots: examples a class.
        grid: of every coefficient.
        sweeps: over all vectors.
        seed: which examples.
        limit: only the first so many test inputs.
        autocast: run the encoder in bfloat16 for the test scores.

    Raises:
        ParameterError: the target has a vector among these, or there are no vectors. UnknownName: no such task.
    """
    if target in vectors or not vectors:
        raise ParameterError(
            f"the library of vectors {list(vectors)} is not one that '{target}' could be held out from.",
            "leave the target's own vector out, and keep at least one other.",
        )
    task = suite.task(target)
    few = replace(suite, tasks=(replace(task, splits={**task.splits, "train": few_shots(task, shots, seed=seed)}),))
    (examples,) = prepare(encoder, few, split="train", heads=heads).tasks
    deltas = {name: deltas_of(encoder, vector) for name, vector in vectors.items()}
    found, losses = _descend(encoder, examples, deltas, tuple(grid), sweeps)
    test = prepare(encoder, suite, split="test", limit=limit, tasks=(target,), heads=heads)
    with line(encoder, test, combined(deltas, found), autocast=autocast) as at:
        before, after = at(0.0), at(1.0)
    return FewShot(
        target=target,
        shots=shots,
        coefficients=found,
        loss_before=losses[0],
        loss_after=losses[1],
        before=before[target],
        after=after[target],
    )


def _descend(
    encoder: Encoder,
    examples: PreparedTask,
    deltas: Mapping[str, Mapping[str, Tensor]],
    grid: tuple[float, ...],
    sweeps: int,
) -> tuple[dict[str, float], tuple[float, float]]:
    objective = objective_of(encoder, examples, names=sorted(set().union(*deltas.values())))
    found = dict.fromkeys(deltas, 0.0)
    first = least = objective.value({})
    for _ in range(sweeps):
        before = dict(found)
        for name in deltas:
            for value in grid:
                tried = {**found, name: value}
                loss = least if value == found[name] else objective.value(combined(deltas, tried))
                if loss < least:
                    found, least = tried, loss
        if found == before:
            break
    return found, (first, least)
