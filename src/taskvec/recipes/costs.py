"""What a merge takes: peak anonymous memory and time, from shapes alone, with constants that were measured.

`benchmarks/plan_accuracy.py` compares the predictions with measured runs; the constants below come from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from taskvec.checkpoint.save import CHUNK
from taskvec.checkpoint.source import TensorSpec
from taskvec.delta import BLOCK
from taskvec.engine.folding import _RUN
from taskvec.methods._method import Fold, MergeMethod

_START = 210e6  # bytes: the interpreter with torch, NumPy and the compiled kernels
_THREAD = 8e6  # bytes a worker, whatever it does
_TEMPORARIES = 6  # arrays like its stack that a method in plain torch holds at once
_WHOLE = 1  # the same for a method that needs a whole tensor, beside the stack
_TRIPLETS = 80  # bytes an entry of a matrix merged by triplets, whatever the number of tasks: their factors twice over
_COUNTS = 1 << 16  # bins of a histogram
_SECONDS = 1.5  # to start, and to compile or load the kernels
# Nanoseconds on one core of a 2.x GHz x86-64 server, inputs in the page cache.
_LINEAR = 1.5  # an entry a task: read two models, subtract, scale, add in float64
_KERNEL = 2.5  # an entry a task: a compiled kernel, on top of reading
_TORCH = 15.0  # an entry a task: a method in plain torch
_COUNT = 1.5  # an entry a task: a histogram
_STATISTIC = 6.0  # an entry a task: any other fold
_WRITE = 1.5  # an output byte: encode, hash, write
_HASH = 0.5  # a byte whose fingerprint is not known yet


@final
@dataclass(frozen=True, slots=True)
class Acting:
    """One tensor, the method that acts on it (None: it is copied), how finely it may be cut, whether it is linear."""

    spec: TensorSpec
    method: MergeMethod | None
    unit: str
    linear: bool

    @property
    def whole(self) -> bool:
        """Whether the method sees the tensor at once; a vector is one row."""
        if self.method is None or self.unit == "element":
            return False
        return self.unit != "row" or len(self.spec.shape) < 2


@final
@dataclass(frozen=True, slots=True)
class Work:
    """What decides the cost: the tensors that each method acts on, the folds, the inputs and the workers."""

    tensors: Sequence[Acting]
    folds: Sequence[Fold]
    tasks: int
    threads: int
    hashed: int  # bytes to hash


def peak_bytes(work: Work) -> int:
    """The predicted peak of anonymous memory of the whole process, in bytes."""
    folding = max((_fold_bytes(work, fold) for fold in work.folds), default=0.0)
    worker = max((_worker_bytes(work, acting) for acting in work.tensors), default=0.0)
    return round(_START + work.threads * _THREAD + max(folding, work.threads * worker + _whole_bytes(work)))


def _fold_bytes(work: Work, fold: Fold) -> float:
    largest = max((a.spec.numel for a in work.tensors if a.method is not None), default=0)
    entries = min(largest, _RUN * BLOCK if fold.counts else BLOCK)
    stack = entries * (4 * work.tasks + 8)
    waiting = (2 * work.threads + 1) * work.tasks * 8 * (_COUNTS if fold.counts else work.tasks)
    return work.threads * stack * 1.5 + waiting


def _worker_bytes(work: Work, acting: Acting) -> float:
    """A chunk in the output's dtype, one block in float64, and what the method makes of a block."""
    spec, method = acting.spec, acting.method
    chunk = min(spec.numel, CHUNK) * spec.dtype.itemsize
    entries = min(spec.numel, BLOCK)
    if method is None or acting.linear or acting.whole:
        return chunk + 16 * entries
    if acting.unit == "row":
        entries = max(entries, spec.numel // max(spec.shape[0], 1))
    stack = entries * 4 * work.tasks
    return chunk + 32 * entries + stack * (1 if method.kernel is not None else _TEMPORARIES)


def _whole_bytes(work: Work) -> float:
    """Methods that need whole tensors: those that workers hold at once, which lie near each other in the files."""
    sizes = [a.spec.numel if a.whole else 0 for a in work.tensors]
    most = 0
    for i, size in enumerate(sizes):
        # While one worker has tensor i, the others come as far as their share of the same work takes them.
        reach, near = (work.threads - 1) * size, []
        for later in sizes[i + 1 :]:
            if reach < 0 or work.threads == 1:
                break
            near.append(later)
            reach -= later
        most = max(most, size + sum(sorted(near, reverse=True)[: work.threads - 1]))
    spectral = any(a.whole and a.method is not None and a.method.spectral is not None for a in work.tensors)
    return most * (_TRIPLETS if spectral else 4 * work.tasks * (1 + _WHOLE) + 12)


def seconds(work: Work) -> float | None:
    """The predicted wall time; None where a method decomposes matrices, whose time is not predicted."""
    if any(a.unit == "matrix" and a.whole for a in work.tensors):
        return None
    moved = sum(a.spec.numel for a in work.tensors if a.method is not None) * work.tasks
    folds = sum(moved * ((_COUNT if fold.counts else _STATISTIC) + _LINEAR) for fold in work.folds)
    merging = sum(a.spec.numel * work.tasks * (_LINEAR + _rate(a)) for a in work.tensors)
    writing = sum(a.spec.nbytes for a in work.tensors) * _WRITE
    return _SECONDS + (folds + merging + writing) / work.threads / 1e9 + work.hashed * _HASH / 1e9


def _rate(acting: Acting) -> float:
    if acting.linear or acting.method is None:
        return 0.0
    return _KERNEL if acting.method.kernel is not None else _TORCH


def assumptions(work: Work) -> Mapping[str, str]:
    """What the predictions take for granted."""
    whole = any(a.whole for a in work.tensors)
    return {
        "memory": f"{work.threads} workers, one chunk of {CHUNK:,} entries each"
        + (", and one whole tensor each" if whole else "")
        + "; mapped files are not counted",
        "time": f"{work.threads} idle cores of a 2.x GHz x86-64 server, inputs in the page cache, a disk that keeps up"
        if seconds(work) is not None
        else "not predicted: the method decomposes matrices",
    }
