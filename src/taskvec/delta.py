"""The leaves of a task vector: where one displacement comes from, read in ranges of entries."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, final

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.fingerprint import BLANK, BaseIdentity
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.source import TensorSpec, check_same_schema
from taskvec.checkpoint.ties import aligned, equal_bits
from taskvec.errors import SchemaError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from taskvec.ops.bits import Bits, Floats

BLOCK = 65_536  # entries: the unit in which float sums are grouped, so that no result depends on chunking
CHUNK = 16 * BLOCK  # entries that streaming code reads and writes at a time


class Adding(Protocol):
    """Whatever adds its values to a float64 total."""

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """`total += coefficient * values[start : start + total.size]` of the flattened tensor, in float64."""


def rounded(source: Adding, out: npt.NDArray[np.float32], name: str, start: int) -> int:
    """`out = values[start : start + out.size]` rounded once to float32; how many entries are not finite."""
    import numpy as np

    from taskvec.ops.bits import Block, read32
    from taskvec.ops.dtypes import DTYPES

    values = np.zeros(out.size)
    source.add_to(values, 1.0, name, start)
    return read32(Block(values.view(np.uint64), DTYPES["F64"]), out)


class AbstractDelta(abc.ABC):
    """One displacement: for each tensor that it moves, its shape and the dtype of the tuned model.

    `base` knows the point it was cut from (None: not recorded, e.g. a LoRA adapter); `partial` says that it may
    move only some tensors of the base; `exact` that applied alone, once, it gives the tuned model bit for bit.
    """

    specs: Mapping[str, TensorSpec]
    base: BaseIdentity | None = None
    partial: bool = False
    exact: bool = False

    @abc.abstractmethod
    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """`total += coefficient * delta[start : start + total.size]` of the flattened tensor, in float64."""

    def read32(self, out: npt.NDArray[np.float32], name: str, start: int) -> int:
        """`out = delta[start : start + out.size]` rounded once to float32; how many entries are not finite."""
        return rounded(self, out, name, start)

    @abc.abstractmethod
    def describe(self) -> str:
        """What to call this displacement in a message."""

    def blame(self, name: str, start: int, stop: int) -> str | None:
        """Which input holds NaN or Inf among these entries, in words; None: none does."""
        import numpy as np

        values = np.zeros(stop - start)
        if not self.is_zero(name):
            self.add_to(values, 1.0, name, start)
        return None if np.isfinite(values).all() else self.describe()

    def is_zero(self, name: str) -> bool:
        """Whether the delta of `name` is known to be 0 everywhere without reading it."""
        return name not in self.specs

    def factors(self, name: str) -> Factors | None:
        """The delta of `name` as a product of two thin matrices, where that is how it is kept; else None."""
        return None

    def restore(self, out: Bits, name: str, start: int) -> None:
        """Turn base + delta, rounded to the tuned dtype in `out`, into the tuned model's bits (`exact` only)."""

    def check(self, progress: Progress = unseen) -> None:
        """Refuse what cannot be seen from the headers; what takes long says how far it is.

        Raises:
            SchemaError: e.g. integer tensors that differ from the base's.
        """

    def hash_inputs(self, name: str) -> None:
        """Hash what the recipe will want of one tensor, while a worker has its bytes at hand."""

    def inputs(self) -> tuple[object, ...] | None:
        """What identifies all that this leaf reads, for resuming a run; None when it cannot be identified."""
        return None

    def notes(self) -> Mapping[str, Mapping[str, float]]:
        """What methods had to report of the tensors that were read so far, by tensor."""
        return {}

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """Where this displacement comes from, as plain data; `blank` puts zeros for hashes that would need a read."""
        return {"vector": self.describe()}


class Factors(NamedTuple):
    """left (m, rank) and right (rank, k): the delta, reshaped to a matrix (m, k), is left @ right."""

    left: Floats
    right: Floats


@final
class Difference(AbstractDelta):
    """tuned − base, both lazy. The tensors of non-float types must agree, since nothing can move them."""

    exact = True

    def __init__(self, tuned: Checkpoint, base: Checkpoint) -> None:
        source = aligned(tuned.source, base.source)
        check_same_schema(source, base.source, names=("the tuned model", "the base"))
        self.tuned, self.origin = tuned if source is tuned.source else Checkpoint(source), base
        self.base = base.fingerprints
        self.specs = {n: s for n, s in self.tuned.specs.items() if s.dtype.moves}
        self._checked = False
        self._zero: dict[str, bool] = {}

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        from taskvec.ops.bits import add_scaled_difference

        stop = start + total.size
        tuned, base = self.tuned.source.block(name, start, stop), self.origin.source.block(name, start, stop)
        add_scaled_difference(total, coefficient, tuned, base)

    def read32(self, out: npt.NDArray[np.float32], name: str, start: int) -> int:
        """See the base class: one pass."""
        from taskvec.ops.bits import difference32

        stop = start + out.size
        return difference32(
            self.tuned.source.block(name, start, stop), self.origin.source.block(name, start, stop), out
        )

    def is_zero(self, name: str) -> bool:
        """True when both models read the very same bytes of one file."""
        known = self._zero.get(name)
        if known is None:
            known = self._zero[name] = self._is_same(name)
        return known

    def _is_same(self, name: str) -> bool:
        identity = self.tuned.source.identity(name) if name in self.specs else None
        return name not in self.specs or (identity is not None and identity == self.origin.source.identity(name))

    def restore(self, out: Bits, name: str, start: int) -> None:
        """See the base class: the tuned model is at hand."""
        out[:] = self.tuned.source.bits(name, start, start + out.size)

    def check(self, progress: Progress = unseen) -> None:
        """Check both models, and compare the tensors that cannot move, once.

        Raises:
            SchemaError: an integer or bool tensor differs.
        """
        if self._checked:
            return
        for point in (self.tuned, self.origin):
            point.source.check(progress)
        for name, spec in self.tuned.specs.items():
            if not spec.dtype.moves and not equal_bits(self.tuned.source, name, self.origin.source, name):
                raise SchemaError(
                    f"tensor '{name}' ({spec}) differs between the tuned model and the base, and {spec.dtype} "
                    "tensors cannot move.",
                    "give both models the same values there.",
                )
        self._checked = True

    def describe(self) -> str:
        """See the base class."""
        return f"{self.tuned.source.describe()} - {self.origin.source.describe()}"

    def blame(self, name: str, start: int, stop: int) -> str | None:
        """See the base class: the tuned model or the base."""
        from taskvec.ops.bits import count_nonfinite

        models = ("the tuned model", self.tuned.source), ("the base", self.origin.source)
        found = (f"{role} ({s.describe()})" for role, s in models if count_nonfinite(s.block(name, start, stop)))
        return None if self.is_zero(name) else next(found, None)

    def hash_inputs(self, name: str) -> None:
        """See the base class."""
        self.tuned.fingerprints.tensor(name)
        self.origin.fingerprints.tensor(name)

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        tuned, base = self.tuned.source.inputs(), self.origin.source.inputs()
        return None if tuned is None or base is None else (tuned, base)

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        fingerprint = BLANK if blank else self.tuned.fingerprint()
        return {"tuned": self.tuned.source.title(), "fingerprint": fingerprint}


@final
class TensorDelta(AbstractDelta):
    """Deltas that are already in memory."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], base: BaseIdentity | None = None) -> None:
        self._source = Checkpoint.from_tensors({n: t.detach().clone() for n, t in tensors.items()}).source
        for name, spec in self._source.specs.items():
            if not spec.dtype.moves:
                raise SchemaError(f"delta '{name}' is {spec}; only floating-point tensors move.", "leave it out.")
        self.specs = self._source.specs
        self.base = base
        self.partial = True

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        from taskvec.ops.bits import add_scaled

        add_scaled(total, coefficient, self._source.block(name, start, start + total.size))

    def read32(self, out: npt.NDArray[np.float32], name: str, start: int) -> int:
        """See the base class: float32 is copied."""
        from taskvec.ops.bits import count_nonfinite

        block = self._source.block(name, start, start + out.size)
        if block.dtype.code != "F32":
            return rounded(self, out, name, start)
        out[:] = block.bits.view(out.dtype)
        return count_nonfinite(block)

    def describe(self) -> str:
        """See the base class."""
        return "deltas in memory"


@final
class Rebased(AbstractDelta):
    """The same deltas as `inner`; applies to any base with the same names and shapes, and promises no exact bits."""

    def __init__(self, inner: AbstractDelta) -> None:
        self.inner = inner
        self.specs = inner.specs
        self.partial = inner.partial

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """See the base class."""
        self.inner.add_to(total, coefficient, name, start)

    def factors(self, name: str) -> Factors | None:
        """See the base class."""
        return self.inner.factors(name)

    def is_zero(self, name: str) -> bool:
        """See the base class."""
        return self.inner.is_zero(name)

    def check(self, progress: Progress = unseen) -> None:
        """See the base class."""
        self.inner.check(progress)

    def inputs(self) -> tuple[object, ...] | None:
        """See the base class."""
        return self.inner.inputs()

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """See the base class."""
        return {**self.inner.recipe(blank=blank), "rebased": True}

    def describe(self) -> str:
        """See the base class."""
        return f"{self.inner.describe()} (rebased)"

    def blame(self, name: str, start: int, stop: int) -> str | None:
        """See the base class."""
        return self.inner.blame(name, start, stop)
