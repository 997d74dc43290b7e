"""Writing the vectors of a basis: every task tensor is read once and all M outputs grow by it; then each is encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from taskvec.checkpoint.output import OutputFile, Part, Poll, Unit, header_bytes, never, worker_count, written
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.safetensors_file import SafetensorsFile
from taskvec.checkpoint.source import TensorSpec
from taskvec.checkpoint.written import Written
from taskvec.delta import BLOCK, AbstractDelta
from taskvec.errors import NonFiniteError
from taskvec.ops.bits import Block, Floats, add_scaled
from taskvec.ops.dtypes import DTYPES
from taskvec.ops.hashing import HEX
from taskvec.vector import TaskVector, check_same_base

if TYPE_CHECKING:
    import numpy.typing as npt

_F32 = DTYPES["F32"]
_RUN = 16 * BLOCK


@final
class _Mixed(Unit):
    """One tensor of all combinations: rows are read once, a run of blocks at a time."""

    def __init__(self, name: str, vectors: Sequence[TaskVector], mix: Floats) -> None:
        self.name, self._mix = name, mix
        self._vectors = [(i, v) for i, v in enumerate(vectors) if name in v.specs and not v.is_zero(name)]
        spec = next(v.specs[name] for v in vectors if name in v.specs)
        self._spec = TensorSpec(spec.shape, _F32)
        self.nbytes = spec.nbytes * max(1, len(self._vectors))

    def parts(self, poll: Poll = never) -> Sequence[Part]:
        """See the base class.

        Raises:
            SchemaError: vectors of two bases.
        """
        check_same_base([leaf for _, v in self._vectors for _, leaf in v.terms], self.name)
        return [Part(_key(m, self.name), self._spec) for m in range(self._mix.shape[1])]

    def emit(self, write: Callable[[str, npt.NDArray[Any]], None]) -> None:
        """See the base class.

        Raises:
            NonFiniteError: NaN or Inf, or a sum beyond float32.
        """
        for start in range(0, self._spec.numel, BLOCK):
            stop = min(start + BLOCK, self._spec.numel)
            total = np.zeros((self._mix.shape[1], stop - start))
            for i, vector in self._vectors:
                row = vector.values(self.name, start, stop)
                total += self._mix[i][:, None] * row
            with np.errstate(over="ignore", invalid="ignore"):
                narrow = total.astype(np.float32)
            if not np.isfinite(narrow).all():
                raise NonFiniteError(
                    f"tensor '{self.name}' of a basis vector is not finite in float32.", "repair the vectors' inputs."
                )
            for m, out in enumerate(narrow):
                write(_key(m, self.name), out)


def _key(member: int, name: str) -> str:
    return f"{member}|{name}"


@final
class Combined(AbstractDelta):
    """One combination, as it was written."""

    def __init__(self, file: SafetensorsFile, member: int, vectors: Mapping[str, TaskVector], about: Any) -> None:
        specs = {n: s for v in vectors.values() for n, s in v.specs.items()}
        self.specs = {n: s for n, s in specs.items() if _key(member, n) in file.specs}
        self.base = next((v.base for v in vectors.values() if v.base is not None), None)
        self.partial = any(leaf.partial for v in vectors.values() for _, leaf in v.terms)
        self._file, self._member, self._about = file, member, about

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        bits = self._file.bits(_key(self._member, name), start, start + total.size)
        add_scaled(total, coefficient, Block(bits, _F32))

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        return {"basis": self._about, "vector": self._member}

    def describe(self) -> str:
        """See the base class."""
        return f"vector {self._member} of a basis"


def write_combinations(
    vectors: Mapping[str, TaskVector],
    mix: Floats,
    path: Path,
    *,
    about: Any,
    threads: int | None = None,
    progress: Progress = unseen,
) -> list[TaskVector]:
    """The combinations Σ_j mix[j, m] · vector j in one float32 file at `path`, in one pass over the vectors.

    Memory is a block of every vector and every combination a thread. Returns them as lazy vectors.

    Raises:
        SchemaError: vectors of two bases. NonFiniteError: NaN or Inf. DestinationError: the disk is full.
    """
    names = list(dict.fromkeys(n for v in vectors.values() for n in v.specs))
    units = [_Mixed(n, list(vectors.values()), mix) for n in names]
    end = sum(p.spec.nbytes for u in units for p in u.parts())
    places = [Written(p.key, p.spec, end, end, "0" * HEX) for u in units for p in u.parts()]
    output = OutputFile(path.name, units, lambda *_: {}, len(header_bytes(places, {})))
    leaves = [leaf.inputs() for v in vectors.values() for _, leaf in v.terms]
    known = None if None in leaves else (leaves, [[c for c, _ in v.terms] for v in vectors.values()], mix.tolist())

    def check(progress: Progress) -> None:
        for vector in vectors.values():
            vector.check(progress)

    options: Any = {"force": True, "threads": worker_count(threads), "progress": progress}
    with written(path, [output], check=check, inputs=known, **options) as (staging, _):
        staging.publish(staging.folder / path.name)
    file = SafetensorsFile(path)
    return [TaskVector(((1.0, Combined(file, m, vectors, about)),)) for m in range(mix.shape[1])]
