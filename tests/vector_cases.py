"""Small models and deltas for the tests of codecs, writer and store: named, deterministic, and deliberately awkward."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

if "TASKVEC_CACHE" not in os.environ:  # never the user's own cache
    os.environ["TASKVEC_CACHE"] = tempfile.mkdtemp(prefix="taskvec-cache-")
    atexit.register(shutil.rmtree, os.environ["TASKVEC_CACHE"], ignore_errors=True)

import taskvec as tv
from taskvec.adapters.lora import LoraDelta, Pair, Part
from taskvec.checkpoint.source import MemorySource, TensorSpec
from taskvec.ops.dtypes import DTYPES

FLOATS = ("F64", "F32", "BF16", "F16", "F8_E5M2", "F8_E4M3")

Tensors = dict[str, torch.Tensor]


def dtype(code: str) -> torch.dtype:
    """The torch dtype of a safetensors code."""
    found = getattr(torch, str(DTYPES[code].torch))
    assert isinstance(found, torch.dtype)
    return found


def normal(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Gaussian float64 entries."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _dominant() -> torch.Tensor:
    x = normal(7, 33, seed=5, scale=1e-3)
    x[3, 4] = 1e6
    return x


DELTAS: Mapping[str, Callable[[], torch.Tensor]] = {
    "scalar": lambda: normal(seed=1),
    "empty": lambda: torch.zeros(0, 4, dtype=torch.float64),
    "row": lambda: normal(1, 37, seed=2),
    "conv": lambda: normal(3, 5, 3, 3, seed=3, scale=0.1),
    "tiny": lambda: normal(40, 3, seed=4, scale=1e-30),
    "zero": lambda: torch.zeros(11, 3, dtype=torch.float64),
    "dominant": _dominant,
    "equal": lambda: torch.full((9, 15), 0.25, dtype=torch.float64),
    "blocks": lambda: normal(70_001, seed=6, scale=0.01),  # more than one block of 65,536
}


def pair(deltas: Mapping[str, Callable[[], torch.Tensor]] = DELTAS, code: str = "F32") -> tuple[Tensors, Tensors]:
    """(base, tuned) tensors with these deltas, over a base that is 0 where the delta is tiny; and an integer tensor."""
    base: Tensors = {"steps": torch.arange(5)}
    tuned: Tensors = {"steps": torch.arange(5)}
    for i, (name, make) in enumerate(deltas.items()):
        delta = make()
        before = torch.zeros_like(delta) if name in ("tiny", "dominant") else normal(*delta.shape, seed=100 + i)
        before = before.to(dtype(code))
        base[name], tuned[name] = before, (before.double() + delta).to(dtype(code))
    return base, tuned


def checkpoints(code: str = "F32") -> tuple[tv.Checkpoint, tv.Checkpoint]:
    """(base, tuned) in memory."""
    base, tuned = pair(code=code)
    return tv.Checkpoint.from_tensors(base), tv.Checkpoint.from_tensors(tuned)


def factored(
    shapes: Mapping[str, tuple[int, int]], *, rank: int = 2, seed: int = 9, scale: float = 2.0
) -> tv.TaskVector:
    """A vector as a LoRA adapter gives it: two thin bf16 factors for each matrix, no base recorded."""
    tensors: Tensors = {}
    parts = {}
    for name, (m, k) in shapes.items():
        tensors[f"{name}.a"] = normal(rank, k, seed=seed, scale=0.1).bfloat16()
        tensors[f"{name}.b"] = normal(m, rank, seed=seed + 1, scale=0.1).bfloat16()
        parts[name] = Part(TensorSpec((m, k), DTYPES["F32"]), Pair(f"{name}.a", f"{name}.b", scale, False))
    return tv.TaskVector(((1.0, LoraDelta(MemorySource(tensors), parts, None)),))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit (-0.0 and the payload of NaN included)."""
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder (or the file itself), by relative name."""
    if folder.is_file():
        return {"": folder.read_bytes()}
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def partials(folder: Path) -> list[str]:
    """What unfinished writing left beside a destination."""
    return sorted(p.name for p in folder.iterdir() if p.name.endswith(".partial"))
