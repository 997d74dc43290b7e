"""Frozen heads: the class phrases embedded once by the base encoder; logits = temperature × cosine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskvec.errors import ParameterError, SchemaError
from taskvec.suites.encoder import Encoder, OpenedEncoder, TextEncoder
from taskvec.suites.images import ImageEncoder
from taskvec.suites.task import Suite, Task

DEFAULT_TEMPERATURE = 20.0


@final
@dataclass(frozen=True, slots=True)
class Head:
    """One unit vector a class and the temperature by which cosines are multiplied."""

    embeddings: Float[Tensor, "class dim"]
    temperature: float

    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch class"]:
        """Temperature × cosine(feature, class embedding); features of length zero give zero logits."""
        return self.temperature * nn.functional.normalize(features.float(), dim=-1) @ self.embeddings.T


def class_name_head(encoder: Encoder, task: Task, *, temperature: float) -> Head:
    """The head of `task` in the space of `encoder`, which should be the base that the fine-tunes start from.

    Raises:
        ParameterError: the temperature is not positive, or the encoder reads no texts.
        NonFiniteError: an embedding is not finite.
    """
    if not 0 < temperature < torch.inf:
        raise ParameterError(f"temperature={temperature} is not a positive number.")
    embeddings = encoder.embed(task.phrases).clone()
    return Head(embeddings / embeddings.norm(dim=-1, keepdim=True), temperature)


def prototype_head(encoder: Encoder, task: Task, *, temperature: float, examples: int = 16) -> Head:
    """A head for encoders that read no texts: the mean of the unit features of a few training inputs of each class.

    Raises:
        ParameterError: a class without a training input, no examples, or a temperature that is not positive.
        NonFiniteError: a feature is not finite.
    """
    if not 0 < temperature < torch.inf or examples < 1:
        raise ParameterError(f"temperature={temperature} with examples={examples} is out of its range.")
    train, rows = task.split("train"), []
    for label, name in enumerate(task.classes):
        chosen = [text for text, own in zip(train.texts, train.labels, strict=True) if own == label][:examples]
        if not chosen:
            raise ParameterError(f"class '{name}' of task '{task.name}' has no training input to make a prototype of.")
        rows.append(encoder.encode(chosen).mean(dim=0))
    return Head(nn.functional.normalize(torch.stack(rows), dim=-1).clone(), temperature)


def heads_of(suite: Suite, *, base: Encoder | None = None) -> Mapping[str, Head]:
    """Task name → head, made by `base`, or by the suite's base model, which is then opened."""
    encoder = encoder_of(suite) if base is None else base
    make = prototype_head if suite.head == "prototypes" else class_name_head
    return {task.name: make(encoder, task, temperature=suite.temperature) for task in suite.tasks}


def check_head(head: Head, task: Task) -> None:
    """Refuse a head of other classes.

    Raises:
        SchemaError: it has not as many vectors as the task has classes.
    """
    if len(head.embeddings) != len(task.classes):
        raise SchemaError(
            f"the head has {len(head.embeddings)} classes, the task '{task.name}' has {len(task.classes)}.",
            "make the head of this task: heads_of(suite).",
        )


def encoder_of(suite: Suite, source: str | Path | None = None) -> OpenedEncoder:
    """The encoder of the suite's base, or of another model of its kind: of texts or of images, as the suite says.

    Raises:
        FormatError: the source is not such a model. ParameterError: a library is not installed.
    """
    where = suite.base if source is None else source
    if suite.inputs == "images":
        return ImageEncoder.open(where)
    return TextEncoder.open(where)
