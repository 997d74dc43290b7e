"""Scoring a model on the tasks of a suite: prepare the inputs once, then score as many models as needed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import NonFiniteError, UnknownName
from taskvec.evaluate.metrics import metric_of
from taskvec.evaluate.scores import Score, Scores, score_of
from taskvec.suites import Bucketed, Encoder, Head, Suite, Task, bucketed, encoder_of, heads_of, logits_of
from taskvec.suites.head import check_head


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTask:
    """A task's inputs as batches, its labels and its head."""

    task: Task
    inputs: Bucketed
    labels: Int[Tensor, " input"]
    head: Head


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Tasks of one suite and split, ready to be scored."""

    suite: str
    split: str
    tasks: tuple[PreparedTask, ...]


def evaluate(
    model: Encoder | Checkpoint | str | Path,
    suite: Suite,
    *,
    split: str = "test",
    limit: int | None = None,
    tasks: Iterable[str] | None = None,
    heads: Mapping[str, Head] | None = None,
    regime: str = "standard",
    autocast: bool = False,
) -> Scores:
    """Scores of `model` on the suite's tasks, each with the head that the suite's base model gives it.

    Args:
        model: an encoder, the folder or hub id of one, or a checkpoint with the tensors of the suite's base (also a
            lazy one, e.g. `base + 0.4 * vector`).
        suite: tasks and base model.
        split: `train`, `val` or `test`.
        limit: only the first so many examples of each task (a fixed sample); None for all.
        tasks: names of the tasks to score, in this order; None for all.
        heads: as `heads_of(suite)` gives them; None opens the base model to make them.
        regime: how the weights were fine-tuned, recorded with the scores.
        autocast: run the encoder in bfloat16; faster, and a few predictions in a thousand differ.

    Raises:
        UnknownName: a task, split or metric has no such name.
        ParameterError: a split is empty or the limit is not positive.
        NonFiniteError: the model's features are not finite.
        SchemaError: a checkpoint that does not fit the suite's base, or a head that does not fit its task.
    """
    encoder: Encoder
    if isinstance(model, Checkpoint):
        encoder = encoder_of(suite).with_weights(model)
    else:
        encoder = encoder_of(suite, model) if isinstance(model, str | Path) else model
    prepared = prepare(encoder, suite, split=split, limit=limit, tasks=tasks, heads=heads)
    return score(encoder, prepared, regime=regime, autocast=autocast)


def prepare(
    encoder: Encoder,
    suite: Suite,
    *,
    split: str,
    limit: int | None = None,
    tasks: Iterable[str] | None = None,
    heads: Mapping[str, Head] | None = None,
) -> Prepared:
    """The inputs of a split as batches for `encoder` and every edit of it; options as in `evaluate`."""
    chosen = [suite.task(name) for name in (suite.names() if tasks is None else tasks)]
    heads = heads_of(suite) if heads is None else heads
    return Prepared(
        suite=suite.name,
        split=split,
        tasks=tuple(_prepared_task(encoder, task, heads, split=split, limit=limit) for task in chosen),
    )


def score(encoder: Encoder, prepared: Prepared, *, regime: str = "standard", autocast: bool = False) -> Scores:
    """Scores of the encoder, as it is now, on prepared inputs.

    Raises:
        NonFiniteError: a feature is not finite.
    """
    rows = tuple(_score(encoder, task, autocast=autocast) for task in prepared.tasks)
    return Scores(rows=rows, suite=prepared.suite, split=prepared.split, regime=regime)


def _prepared_task(
    encoder: Encoder, task: Task, heads: Mapping[str, Head], *, split: str, limit: int | None
) -> PreparedTask:
    if task.name not in heads:
        raise UnknownName.among(f"there is no head for the task '{task.name}'.", task.name, heads)
    check_head(heads[task.name], task)
    metric_of(task.metric)
    part = task.split(split, limit=limit)
    return PreparedTask(
        task=task, inputs=bucketed(encoder, part.texts), labels=torch.tensor(part.labels), head=heads[task.name]
    )


def _score(encoder: Encoder, prepared: PreparedTask, *, autocast: bool) -> Score:
    logits = logits_of(prepared.head, prepared.inputs, encoder.features, autocast=autocast)
    if not logits.isfinite().all():
        raise NonFiniteError(
            f"the model gives logits that are not finite on task '{prepared.task.name}'.",
            "check the weights for NaN and Inf; a smaller scale may help.",
        )
    return score_of(prepared.task.name, metric_of(prepared.task.metric)(logits, prepared.labels))
