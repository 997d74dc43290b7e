"""Writing a factored task vector as a LoRA adapter that PEFT loads."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.adapters.reader import PREFIX
from taskvec.checkpoint.durable import write_durably
from taskvec.checkpoint.files import ADAPTER
from taskvec.checkpoint.open import ADAPTER_CONFIG
from taskvec.checkpoint.output import OutputFile, Part, Poll, Unit, header_bytes, never, worker_count, written
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.source import TensorSpec
from taskvec.checkpoint.staging import Staging
from taskvec.checkpoint.written import Written
from taskvec.delta import BLOCK, Factors
from taskvec.errors import NonFiniteError, ParameterError, SchemaError
from taskvec.ops.dtypes import DTYPES
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    import numpy as np

EMBEDDINGS = ("*embed*", "*wte.weight", "*wpe.weight", "shared.weight", "*.shared.weight")
_METADATA = {"format": "pt"}
_F32 = DTYPES["F32"]


def save_lora(
    vector: TaskVector,
    path: str | Path,
    *,
    rank: int | None = None,
    drop_others: bool = False,
    embeddings: Sequence[str] = EMBEDDINGS,
    transposed: Sequence[str] = (),
    base_name: str | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress = unseen,
) -> Path:
    """Write `vector` to the folder `path` as adapter_model.safetensors and adapter_config.json, in float32.

    base + adapter is base + vector: every alpha is its rank, so that PEFT's scaling is 1. Modules are named by the
    vector: the adapter fits the model in whose state dict `NAME.weight` is the tensor of that name.

    Args:
        vector: its matrices and kernels become pairs of factors; those that do not move are left out.
        path: the destination, a folder.
        rank: the most that a module gets: the best approximation of that rank. Default: factors as they are kept.
        drop_others: leave out what LoRA cannot carry (biases, norms, bare parameters) instead of refusing it.
        embeddings: patterns of the names whose modules are embeddings; PEFT keeps their factors the other way round.
        transposed: patterns of the names whose matrices are stored (in, out), as in the Conv1D modules of GPT-2.
        base_name: what the configuration says of the base: a hub id or a path.
        force: replace what is there, in one step.
        threads: workers; default: one a processor.
        progress: called with (name of the step, bytes done, bytes in all), from any thread.

    Returns:
        The destination.

    Raises:
        SchemaError: something moved that LoRA cannot carry, or nothing moved that it can.
        ParameterError: a rank that is no positive number, or a matrix that is not kept as factors and no rank.
        NonFiniteError: NaN or Inf in a delta, or factors beyond float32. DestinationError: `path` exists.
    """
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ParameterError(f"rank={rank!r} is not a positive whole number.")
    destination, workers = Path(os.path.abspath(path)), worker_count(threads)
    Staging(destination, plan=None, force=force).check()
    vector.check(progress)
    kinds = {name: _kind(name, spec, embeddings, transposed) for name, spec in vector.specs.items()}
    for name in [] if drop_others else [n for n, kind in kinds.items() if kind is None]:
        _refuse_moved(vector, name)
    units = [
        _Module(vector, n, vector.specs[n].nbytes, k, _rank(vector, n, rank))
        for n, k in kinds.items()
        if k and not vector.is_zero(n)
    ]
    if not units:
        raise SchemaError(
            f"{vector.describe()} moves nothing that LoRA can carry.", "give a vector that moves matrices."
        )
    config = _configuration(units, base_name)
    options: Any = {"inputs": None, "force": force, "threads": workers, "progress": progress}
    with written(destination, [_file(units)], check=lambda _: None, **options) as (staging, _):
        write_durably(staging.folder / ADAPTER_CONFIG, json.dumps(config, indent=2) + "\n")
        staging.publish(staging.folder)
    return destination


def _kind(name: str, spec: TensorSpec, embeddings: Sequence[str], transposed: Sequence[str]) -> str | None:
    """How PEFT keeps the factors of a tensor; None: LoRA cannot carry it."""
    if not name.endswith(".weight") or len(spec.shape) < 2 or 0 in spec.shape:
        return None
    if len(spec.shape) > 2:
        return "kernel"
    if any(fnmatchcase(name, pattern) for pattern in embeddings):
        return "embedding"
    return "transposed" if any(fnmatchcase(name, pattern) for pattern in transposed) else "linear"


def _refuse_moved(vector: TaskVector, name: str) -> None:
    spec = vector.specs[name]
    starts = range(0, 0 if vector.is_zero(name) else spec.numel, BLOCK)
    if any(vector.values(name, at, min(at + BLOCK, spec.numel)).any() for at in starts):
        raise SchemaError(
            f"{vector.describe()} moves '{name}' ({spec}), which LoRA cannot carry.",
            "leave out all that it cannot: drop_others=True (--drop-others).",
        )


def _sides(spec: TensorSpec) -> tuple[int, int]:
    return spec.shape[0], math.prod(spec.shape[1:])


def _rank(vector: TaskVector, name: str, rank: int | None) -> int:
    factors = vector.factors(name)
    if factors is not None:
        kept = int(factors.right.shape[0])
        return kept if rank is None else min(rank, kept, *_sides(vector.specs[name]))
    if rank is None:
        raise ParameterError(
            f"the delta of tensor '{name}' in {vector.describe()} is not kept as factors.",
            "give a rank (--rank 16), or save the vector with codec='tsv' first.",
        )
    return min(rank, *_sides(vector.specs[name]))


@final
@dataclass(frozen=True, slots=True)
class _Module(Unit):
    """One tensor as the two factors of its module."""

    vector: TaskVector
    name: str
    nbytes: int
    kind: str
    rank: int

    @property
    def module(self) -> str:
        return self.name.removesuffix(".weight")

    def parts(self, poll: Poll = never) -> Sequence[Part]:
        """See the base class: the shapes are known beforehand."""
        spec = self.vector.specs[self.name]
        m, n = _sides(spec)
        a, b = (m, n) if self.kind in ("embedding", "transposed") else (n, m)
        shapes: list[tuple[int, ...]] = [(self.rank, a), (b, self.rank)]
        if self.kind == "kernel":
            shapes = [(self.rank, *spec.shape[1:]), (b, self.rank, *(1 for _ in spec.shape[2:]))]
        ending = "lora_embedding_{}" if self.kind == "embedding" else "lora_{}.weight"
        keys = [f"{PREFIX}{self.module}.{ending.format(side)}" for side in "AB"]
        return [Part(key, TensorSpec(shape, _F32)) for key, shape in zip(keys, shapes, strict=True)]

    def emit(self, write: Callable[[str, np.ndarray[Any, Any]], None]) -> None:
        """See the base class."""
        import numpy as np

        left, right = self._factors()
        a, b = (left.T, right.T) if self.kind in ("embedding", "transposed") else (right, left)
        for part, values in zip(self.parts(), (a, b), strict=True):
            write(part.key, np.ascontiguousarray(values, np.float32))

    def _factors(self) -> Factors:
        """The factors as they are kept, or those of the best approximation of the rank."""
        import torch

        from taskvec.ops.factored import recompressed
        from taskvec.ops.spectral import decompose

        kept = self.vector.factors(self.name)
        if kept is not None:
            self._check(*kept)
            if kept.right.shape[0] == self.rank:
                return kept
            found = recompressed(torch.from_numpy(kept.left), torch.from_numpy(kept.right), self.rank)
        else:
            spec = self.vector.specs[self.name]
            values = self.vector.values(self.name, 0, spec.numel).reshape(_sides(spec))
            self._check(values)
            found = decompose(torch.from_numpy(values).float(), self.rank)
        scale = found.s.double().sqrt()
        return Factors((found.u.double() * scale).numpy(), (found.v.double() * scale).T.numpy())

    def _check(self, *arrays: np.ndarray[Any, Any]) -> None:
        import numpy as np

        if not all((np.abs(x) < 3e38).all() for x in arrays):  # NaN is not below anything
            raise NonFiniteError(
                f"the delta of tensor '{self.name}' in {self.vector.describe()} has NaN, Inf or values beyond 3e38.",
                "repair the inputs.",
            )


def _file(units: Sequence[_Module]) -> OutputFile:
    at, places = 0, []
    for part in (part for unit in units for part in unit.parts()):
        places.append(Written(part.key, part.spec, at, at + part.spec.nbytes, ""))
        at += part.spec.nbytes
    reserve = len(header_bytes(places, _METADATA))
    return OutputFile(ADAPTER, units, lambda _written, _notes: _METADATA, reserve, expected=at)


def _configuration(units: Sequence[_Module], base_name: str | None) -> Mapping[str, Any]:
    """Patterns name whole modules, the longest first, since PEFT takes the first that fits the end of a name."""
    ranks = {u.module: u.rank for u in sorted(units, key=lambda u: (-len(u.module), u.module))}
    patterns = ranks if len(set(ranks.values())) > 1 else {}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base_name,
        "task_type": None,
        "inference_mode": True,
        "r": units[0].rank,
        "lora_alpha": units[0].rank,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": [u.module for u in units],
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": any(u.kind == "transposed" for u in units),
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }
