"""Random models for property tests: names, shapes, dtypes and bit patterns; a source that counts what is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.source import AbstractSource, MemorySource

FLOATS = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
INTEGERS = [torch.int64, torch.uint8, torch.bool, torch.int16]
SHAPES = [(), (0,), (3,), (1, 5), (5, 1), (2, 3), (2, 0, 3), (2, 3, 2, 2), (1,)]
Tensors = dict[str, torch.Tensor]

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")
shapes = st.sampled_from(SHAPES)
specs = st.dictionaries(names, st.tuples(shapes, st.sampled_from(FLOATS)), min_size=1, max_size=4)
seeds = st.integers(0, 2**32 - 1)


def finite_bits(shape: tuple[int, ...], dtype: torch.dtype, rng: np.random.Generator) -> torch.Tensor:
    """Random bit patterns that are finite numbers: every exponent, subnormals and zeros of both signs among them."""
    n, width = math.prod(shape), dtype.itemsize
    codes = rng.integers(0, 256, (8 * n + 8, width), dtype=np.uint8)
    codes[rng.random(len(codes)) < 0.1] = 0  # +0.0 ...
    codes[rng.random(len(codes)) < 0.05] = np.array([0] * (width - 1) + [128], np.uint8)  # ... and -0.0, or a NaN
    values = torch.from_numpy(codes.reshape(-1)).view(dtype)
    return values[torch.isfinite(values.double())][:n].reshape(shape).clone()


def moderate(shape: tuple[int, ...], dtype: torch.dtype, rng: np.random.Generator) -> torch.Tensor:
    """Numbers whose small multiples and sums no dtype but a float8 can fail to hold."""
    return torch.from_numpy(np.asarray(rng.normal(size=shape) * 2.0 ** rng.integers(-6, 4, shape))).to(dtype).clone()


def model(specs: Mapping[str, tuple[Any, torch.dtype]], seed: int, make: Any = moderate) -> Tensors:
    """A state dict with these shapes and dtypes; the same seed gives the same numbers."""
    rng = np.random.default_rng(seed)
    return {name: make(shape, dtype, rng) for name, (shape, dtype) in specs.items()}


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def points(folder: Path, *models: Tensors) -> list[list[Checkpoint]]:
    """The models as checkpoints twice over: in memory, and saved by the official library and opened again."""
    saved = []
    for i, tensors in enumerate(models):
        path = folder / f"{i}.safetensors"
        path.unlink(missing_ok=True)
        safetensors.torch.save_file(tensors, path)
        saved.append(Checkpoint.open(path))
    return [[Checkpoint.from_tensors(tensors) for tensors in models], saved]


class CountingSource(AbstractSource):
    """Tensors in memory, and how many entries of each were read."""

    def __init__(self, tensors: Tensors) -> None:
        self._inner = MemorySource(tensors)
        self.specs = self._inner.specs
        self.read: Counter[str] = Counter()

    def bits(self, name: str, start: int, stop: int) -> Any:
        """Count, then read."""
        self.read[name] += stop - start
        return self._inner.bits(name, start, stop)
