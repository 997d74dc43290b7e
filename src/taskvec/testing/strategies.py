"""Hypothesis strategies for stacks of tensors (needs the package `hypothesis`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from taskvec.testing.adversarial import Stacks

SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (5,), (3, 4), (1, 6), (6, 1), (2, 3, 2, 2), (7, 9), (2, 0, 3))
KINDS = ("normal", "grid", "wide", "sparse", "related")


def _make(kind: str, tasks: int, shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x: npt.NDArray[Any] = rng.normal(size=(tasks, *shape))
    if kind == "grid":  # many equal magnitudes, exact cancellations
        x = rng.integers(-3, 4, x.shape) / 4
    elif kind == "wide":
        x = x * 2.0 ** rng.integers(-40, 20, x.shape)
    elif kind == "sparse":
        x = np.where(rng.random(x.shape) < 0.3, x, 0.0)
    elif kind == "related":  # one direction, and noise
        x = x[:1] * rng.choice([1.0, 1.0, -1.0, 2.0], (tasks, *[1] * len(shape))) + 0.1 * x
    return x.astype(np.float32)


@st.composite
def stacks(draw: st.DrawFn, *, tasks: st.SearchStrategy[int] | None = None, tensors: int = 3) -> Stacks:
    """Stacks of 1 to `tensors` tensors: numbers of several kinds, shapes from 0-d to kernels, empty ones among them."""
    count = draw(st.integers(1, 5) if tasks is None else tasks)
    found: Stacks = {}
    for i in range(draw(st.integers(1, tensors))):
        kind, shape = draw(st.sampled_from(KINDS)), draw(st.sampled_from(SHAPES))
        found[f"layer.{i}"] = _make(kind, count, shape, draw(st.integers(0, 2**32 - 1)))
    return found
