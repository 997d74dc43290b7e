"""Every method, and so every kind of method, as a merge of files that may be run in several ways.

`python same_bytes.py ROOT OUT THREADS` runs each to the end, and each again in a child that is killed (kill -9) when
half of its tensors are written.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import oracles
import taskvec as tv
from taskvec import methods
from taskvec.checkpoint.progress import WRITING, Progress, unseen
from taskvec.methods import MergeMethod
from taskvec.testing.evaluation import has_base, spaces, spread

TASKS = ("math", "code", "chat")
SHAPES: Mapping[str, tuple[int, ...]] = {
    "long.rows": (3, 70_000),  # a row is more than a block
    "long.bias": (140_001,),
    "embedding": (260, 700),  # rows do not end where blocks do
    "layers.0.weight": (96, 64),
    "layers.1.weight": (64, 96),
    "conv": (8, 4, 3, 3),
    "norm": (64,),
    "scale": (),
    "nothing": (0, 4),
}


def write_models(root: Path) -> None:
    """base and three fine-tunes with an integer tensor; float64 where no difference may hide in a rounding."""
    for seed, name in enumerate(("base", *TASKS)):
        table = {}
        for i, (key, shape) in enumerate(SHAPES.items()):
            start = torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(100 * seed + i), dtype=torch.float64)
            table[key] = (start + (0.1 * noise if seed else 0)).to(torch.bfloat16 if key == "norm" else torch.float64)
        (root / name).mkdir()
        save_file({**table, "steps": torch.arange(7)}, root / name / "model.safetensors", metadata={"format": "pt"})


def of_matrices(deltas: torch.Tensor) -> torch.Tensor:
    """The two largest singular triplets of the sum."""
    u, s, v = torch.linalg.svd(deltas.sum(0), full_matrices=False)
    return (u[:, :2] * s[:2]) @ v[:2]


def of_tensors(deltas: torch.Tensor) -> torch.Tensor:
    """The sum of the deltas, each divided by the norm of its whole tensor."""
    norms = deltas.reshape(len(deltas), -1).norm(dim=1).reshape(-1, *[1] * (deltas.ndim - 1))
    return (deltas / norms.clamp(min=1e-30)).sum(0)


def jobs() -> Iterator[tuple[str, MergeMethod, bool, Mapping[str, Any]]]:
    """(label, method, whether on points, parameters): the first and the last setting that its reference is tried on."""
    for name in methods.names():
        method = methods.get(name)
        if method.function.__module__.startswith("taskvec."):
            every = oracles.settings(name)
            for points in spaces(method):
                for i in sorted({0, len(every) - 1}):
                    yield f"{name}-{'points' if points else 'vectors'}-{i}", method, points, every[i]
    plain = replace(methods.get("magmax"), kernel=None)
    yield "matrices", replace(plain, function=of_matrices, acts_on="matrix", otherwise="average"), False, {}
    yield "tensors", replace(plain, function=of_tensors, acts_on="tensor"), False, {}


JOBS = {label: job for label, *job in jobs()}


def merged(label: str, root: Path, threads: int) -> tv.Checkpoint:
    """The merge of one job, lazy."""
    method, points, parameters = JOBS[label]
    base = tv.Checkpoint.open(root / "base")
    names = (TASKS * method.least)[: max(min(len(TASKS), method.most or len(TASKS)), method.least)]
    named = {f"{task}{i}": tv.Checkpoint.open(root / task) for i, task in enumerate(names)}
    options = spread(parameters, list(named))
    if points:
        return tv.merge(method, named, base=base if has_base(method, points) else None, threads=threads, **options)
    return base + tv.merge(method, {n: p - base for n, p in named.items()}, threads=threads, **options)


def write(label: str, root: Path, out: Path, threads: int, progress: Progress = unseen) -> str:
    """Run one job; the hash of all that it wrote."""
    written = merged(label, root, threads).save(out / label, threads=threads, progress=progress)
    return digest(written)


def compress(root: Path, out: Path) -> str:
    """A vector as singular triplets, which are linear algebra, too; the hash of its file."""
    vector = tv.Checkpoint.open(root / TASKS[0]) - tv.Checkpoint.open(root / "base")
    return digest(vector.save(out / "v.tv.safetensors", codec="tsv", budget="20%"))


def digest(path: Path) -> str:
    """A hash of a file, or of the names and bytes of every file in a folder."""
    found = hashlib.sha256()
    folder, files = (path.parent, [path]) if path.is_file() else (path, path.rglob("*"))
    for file in sorted(p for p in files if p.is_file()):
        data = file.read_bytes()
        found.update(f"{file.relative_to(folder).as_posix()} {len(data)} ".encode() + data)
    return found.hexdigest()


def _die_at_half(step: str, done: int, total: int) -> None:
    if step == WRITING and 2 * done >= total:
        os.kill(os.getpid(), signal.SIGKILL)


def _killed(label: str, root: Path, out: Path, threads: int) -> None:
    child = os.fork()
    if not child:
        try:
            write(label, root, out, threads, _die_at_half)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), f"{label} was not killed"


def main(root: Path, out: Path, threads: int) -> None:
    """See the module."""
    for name in ("whole", "killed"):
        (out / name).mkdir()
    for label in JOBS:
        write(label, root, out / "whole", threads)
        _killed(label, root, out / "killed", threads)
    compress(root, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
