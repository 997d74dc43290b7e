"""Frozen heads: the class phrases embedded once by the base encoder; logits = temperature × cosine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskvec.errors import ParameterError
from taskvec.suites.encoder import Encoder, TextEncoder
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


def heads_of(suite: Suite, *, base: Encoder | None = None) -> Mapping[str, Head]:
    """Task name → head, embedded by `base`, or by the suite's base model, which is then opened."""
    encoder = TextEncoder.open(suite.base) if base is None else base
    return {task.name: class_name_head(encoder, task, temperature=suite.temperature) for task in suite.tasks}
