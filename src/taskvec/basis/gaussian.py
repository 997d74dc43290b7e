"""Directions of independent normal entries, by position: never stored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import final

import numpy as np

from taskvec.checkpoint.source import TensorSpec
from taskvec.delta import AbstractDelta
from taskvec.ops.bits import Floats
from taskvec.ops.random import stream_keys, uniforms
from taskvec.vector import TaskVector


@final
class GaussianDelta(AbstractDelta):
    """Standard normal entries, a function of seed, column, tensor and position (Box and Muller 1958)."""

    def __init__(self, specs: Mapping[str, TensorSpec], like: AbstractDelta, seed: int, column: int) -> None:
        self.specs, self.base, self.partial = specs, like.base, like.partial
        self._seed, self._column = seed, column

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        keys = stream_keys(self._seed, [f"{self._column} radius", f"{self._column} angle"], name)
        radius, angle = uniforms(keys, start, total.size)
        total += coefficient * np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2.0 * math.pi * angle)

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        return ("gaussian", self._seed, self._column)

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        return {"gaussian": json.dumps([self._seed, self._column])}

    def describe(self) -> str:
        """See the base class."""
        return f"gaussian direction {self._column} of seed {self._seed}"


def gaussian_vectors(vectors: Mapping[str, TaskVector], size: int, seed: int) -> list[TaskVector]:
    """`size` directions over all tensors that the vectors move."""
    specs = {name: spec for vector in vectors.values() for name, spec in vector.specs.items()}
    like = next(iter(vectors.values())).terms[0][1]
    return [TaskVector(((1.0, GaussianDelta(specs, like, seed, m)),)) for m in range(size)]
