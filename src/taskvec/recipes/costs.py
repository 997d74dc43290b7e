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

_START = 72e6  # bytes: the interpreter with NumPy and the compiled kernels
_WITH_TORCH = 100e6  # bytes: torch, where a method or a fold needs it
_THREAD = 6e6  # bytes a worker, whatever it does
_TEMPORARIES = 6  # arrays like its stack that a method in plain torch holds at once
_WHOLE = 1  # the same for a method that needs a whole tensor, beside the stack
_TRIPLETS = 80  # bytes an entry of a matrix merged by triplets, whatever the number of tasks: their factors twice over
_COUNTS = 1 << 16  # bins of a histogram
_SECONDS = 0.6  # to start, and to load the kernels
_TORCH_SECONDS = 1.2  # to load torch
# Nanoseconds on one core of a 3.x GHz x86-64 server, inputs in the page cache.
_COPIED = 0.3  # an entry a task: a tensor that no method acts on
_LINEAR = 1.2  # an entry a task: read two models, subtract, scale, add in float64
_KERNEL = 0.9  # an entry a task: read, and a compiled kernel
_TORCH = 8.0  # an entry a task: read, and a method in plain torch
_COUNT = 0.9  # an entry a task: read, and a histogram or a compiled statistic
_STATISTIC = 7.0  # an entry a task: read, and any other fold
_WRITE = 0.9  # an output byte: encode, hash, write
_HASH = 0.3  # a byte whose fingerprint is not known yet


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
    start = _START + (_WITH_TORCH if _needs_torch(work) else 0.0)
    return round(start + work.threads * _THREAD + max(folding, work.threads * worker + _whole_bytes(work)))


def _needs_torch(work: Work) -> bool:
    """Whether something is neither a linear combination nor compiled."""
    plain = any(a.method is not None and not a.linear and a.method.kernel is None for a in work.tensors)
    return plain or any(not (fold.counts or fold.compiled) for fold in work.folds)


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
    folds = sum(moved * (_COUNT if fold.counts or fold.compiled else _STATISTIC) for fold in work.folds)
    merging = sum(a.spec.numel * work.tasks * _rate(a) for a in work.tensors)
    writing = sum(a.spec.nbytes for a in work.tensors) * _WRITE
    start = _SECONDS + (_TORCH_SECONDS if _needs_torch(work) else 0.0)
    return start + (folds + merging + writing) / work.threads / 1e9 + work.hashed * _HASH / 1e9


def _rate(acting: Acting) -> float:
    if acting.method is None:
        return _COPIED
    return _LINEAR if acting.linear else _KERNEL if acting.method.kernel is not None else _TORCH


def assumptions(work: Work) -> Mapping[str, str]:
    """What the predictions take for granted."""
    whole = any(a.whole for a in work.tensors)
    return {
        "memory": f"{work.threads} workers, one chunk of {CHUNK:,} entries each"
        + (", and one whole tensor each" if whole else "")
        + "; mapped files are not counted",
        "time": f"{work.threads} idle cores of a 3.x GHz x86-64 server, inputs in the page cache, a disk that keeps up"
        if seconds(work) is not None
        else "not predicted: the method decomposes matrices",
    }
