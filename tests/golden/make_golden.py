"""Writes the files beside this script: one of each format, from numbers that no library decides.

The tests write them again and compare every byte, and read the ones that are committed. A format version that was
released is never written anew: its files stay, and readers must go on reading them.

    python tests/golden/make_golden.py            writes tests/golden/v1
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import taskvec as tv

VERSION = "0.1.0"  # what the files say of the tool that wrote them
CODECS = {
    "dense": {},
    "dense-bf16": {"codec": "dense", "dtype": "bfloat16"},
    "int8": {"group": 16},
    "int4": {"group": 16},
    "sparse": {"density": 0.25},
    "lora": {},
    "tsv": {"density": 0.4, "dtype": "bfloat16"},
}


def numbers(n: int, seed: int, scale: float) -> np.ndarray:
    """Fixed float64 numbers in [-scale, scale): the middle bits of a linear congruence."""
    state = np.empty(n, np.uint64)
    x = np.uint64(seed)
    for i in range(n):
        x = np.uint64((int(x) * 6364136223846793005 + 1442695040888963407) % 2**64)
        state[i] = x >> np.uint64(40)
    return (state.astype(np.float64) / 2.0**23 - 1.0) * scale


def tensors() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(base, tuned): a matrix, a scalar, nothing, a name outside ASCII, a tensor that stays, one that cannot move."""
    base = {
        "matrix": torch.from_numpy(numbers(35, 1, 1.0).reshape(5, 7)).bfloat16(),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "größe": torch.from_numpy(numbers(6, 2, 1.0).reshape(1, 2, 3)).half(),
        "still": torch.ones(4),
        "steps": torch.arange(3),
    }
    tuned = {n: t.clone() for n, t in base.items()}
    tuned["matrix"] = (base["matrix"].double() + torch.from_numpy(numbers(35, 3, 0.01).reshape(5, 7))).bfloat16()
    tuned["matrix"][0, 0] = -0.0
    tuned["scalar"] = torch.tensor(-2.25)
    tuned["größe"] = (base["größe"].double() * 1.25).half()
    return base, tuned


def adapter() -> tv.TaskVector:
    """Factors in memory, as a LoRA adapter gives them."""
    from taskvec.adapters.lora import LoraDelta, Pair, Part
    from taskvec.checkpoint.source import MemorySource, TensorSpec
    from taskvec.ops.dtypes import DTYPES

    a = torch.from_numpy(numbers(14, 4, 0.5).reshape(2, 7)).bfloat16()
    b = torch.from_numpy(numbers(10, 5, 0.5).reshape(5, 2)).bfloat16()
    parts = {"matrix": Part(TensorSpec((5, 7), DTYPES["BF16"]), Pair("a", "b", 2.0, False))}
    return tv.TaskVector(((1.0, LoraDelta(MemorySource({"a": a, "b": b}), parts, None)),))


def write(folder: Path) -> None:
    """Write every file into `folder`."""
    was, tv.__version__ = tv.__version__, VERSION
    try:
        base, tuned = (tv.Checkpoint.from_tensors(t) for t in tensors())
        folder.mkdir(parents=True)
        for name, options in CODECS.items():
            vector = adapter() if name == "lora" else tuned - base
            vector.save(folder / f"{name}.tv.safetensors", **{"codec": name, **options})
        (tuned - base).save(folder / "sharded", shard_size=60)
        store = tv.Store.create(folder / "store", base=base)
        store.add("Größe", tuned)
        store.add("small", tuned, codec="int8", group=16)
        store.add("adapter", adapter(), codec="lora")
        (folder / "store" / ".lock").unlink()
        (folder / "store" / ".incoming").rmdir()
    finally:
        tv.__version__ = was


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "v1")
