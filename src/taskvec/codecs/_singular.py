"""Encoding a delta as singular triplets: decomposed once, its factors rounded, its error measured on what is stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.output import Poll
from taskvec.checkpoint.roles import Split
from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import AbstractEncoder, Write, blocks
from taskvec.codecs._error import RelativeError
from taskvec.codecs._factored import matrix_shape
from taskvec.codecs._pieces import LARGEST, Piece, pieces_of, rows_of, thin_factors
from taskvec.delta import Factors
from taskvec.errors import ConvergenceError, FormatError, NonFiniteError
from taskvec.ops.dtypes import DTYPES, DType
from taskvec.ops.threads import one_thread
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    import numpy as np
    import torch

    from taskvec.ops.bits import Floats
    from taskvec.ops.triplets import Triplets

GROUP = 128  # entries of an int8 factor that share a scale
_CANCELED = 1e-6  # squared relative error below which it is measured entry by entry
Ranks = Sequence[int]


@final
@dataclass(frozen=True, slots=True)
class Shape:
    """How a tensor is laid out as triplets: a matrix (m, n) in equal parts, all factors of one dtype.

    `whole` is the bytes that it takes undecomposed.
    """

    spec: TensorSpec
    split: Split | None
    dtype: DType
    whole: int = 0

    @property
    def parts(self) -> int:
        """How many matrices there are."""
        return self.split.parts if self.split else 1

    @property
    def sides(self) -> tuple[int, int]:
        """The shape of each matrix.

        Raises:
            FormatError: the tensor cannot be split like that.
        """
        m, n = matrix_shape(self.spec)
        if self.split is None:
            return m, n
        if not self.split.divides(self.spec.shape):
            raise FormatError(f"a tensor {self.spec} cannot be split into {self.split}.")
        return self.split.sides((m, n))

    @property
    def rank(self) -> int:
        """The largest number of triplets of one matrix."""
        return min(self.sides)

    def stored(self, count: int) -> dict[str, TensorSpec]:
        """The parts of `count` triplets in all."""
        m, n = self.sides
        found = {"u": TensorSpec((count, m), self.dtype), "v": TensorSpec((count, n), self.dtype)}
        found["s"] = TensorSpec((count,), DTYPES["F32"])
        if self.dtype.code == "I8":
            found |= {f"{r}_scales": TensorSpec((-(-found[r].numel // GROUP),), DTYPES["BF16"]) for r in "uv"}
        if self.split is not None:
            found["ranks"] = TensorSpec((self.parts,), DTYPES["I32"])
        return found

    def nbytes(self, count: int) -> int:
        """The bytes of `count` triplets in all."""
        return sum(s.nbytes for s in self.stored(count).values()) if count else 0

    def widened(self, ranks: Ranks, u: Floats, s: Floats, v: Floats) -> Factors:
        """Left (m, count) and right (count, n) of the whole tensor; the blocks of other parts are 0."""
        import numpy as np

        if self.split is None:
            return Factors(np.ascontiguousarray((u * s[:, None]).T), v)
        left = np.zeros((matrix_shape(self.spec)[0], len(s)))
        right = np.zeros((len(s), matrix_shape(self.spec)[1]))
        ends = np.cumsum(ranks)
        for (rows, columns), first, last in zip(self.split.pieces(self.spec.shape), ends - ranks, ends, strict=True):
            left[rows, first:last] = (u[first:last] * s[first:last, None]).T
            right[first:last, columns] = v[first:last]
        return Factors(left, right)


@final
class SingularEncoder(AbstractEncoder):
    """The largest triplets of one tensor; `choose` says how many of each matrix, `instead` takes what is not smaller.

    `choose` gives the triplets to keep of each matrix, or None for `instead`.
    """

    def __init__(
        self, vector: TaskVector, name: str, shape: Shape, *, choose: Choice, instead: AbstractEncoder
    ) -> None:
        self.kind = "tsv"
        self._vector, self._name, self._shape = vector, name, shape
        self._choose, self._instead = choose, instead
        self._delegated = False
        self._data: dict[str, np.ndarray[Any, Any]] = {}
        self._fields: dict[str, Any] = {}

    @one_thread()
    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """See the base class: everything is computed here, and what is stored is held until `emit`."""
        pieces = pieces_of(self._vector, self._name, self._shape.split, poll)
        if not pieces:
            self.kind, self._fields = "zero", {"error": f"{0.0:.6e}", "norm": f"{0.0:.6e}"}
            return {}
        try:
            triplets = self._choose(pieces)
        except ConvergenceError as failed:
            where = f"tensor '{self._name}' of {self._vector.describe()}"
            raise ConvergenceError(f"{where}: {failed.fact}", failed.fix) from failed
        if triplets is None:
            return self._delegate(poll)
        count = sum(t.rank for t in triplets)
        self.kind = "tsv" if count else "zero"
        error = self._store(pieces, triplets, poll)
        self._fields = {"error": error.text(), "norm": f"{error.norm:.6e}"}
        if self.kind == "zero":
            return {}
        if self._shape.split is not None:
            self._fields["split"] = str(self._shape.split)
        if self._shape.dtype.code == "I8":
            self._fields["group"] = GROUP
        return self._shape.stored(count)

    def _delegate(self, poll: Poll) -> Mapping[str, TensorSpec]:
        self._delegated = True
        parts = self._instead.measure(poll)
        self.kind, self.exact = self._instead.kind, self._instead.exact
        return parts

    def _store(self, pieces: Sequence[Piece], triplets: Sequence[Triplets], poll: Poll) -> RelativeError:
        """Round the factors, fit the scales to the rounded ones, and keep the bytes; returns what is lost."""
        import numpy as np
        import torch

        (ranks, dtype), data = ([t.rank for t in triplets], self._shape.dtype), self._data
        u, v = (torch.cat([getattr(_signed(t), side).T for t in triplets]).contiguous() for side in "uv")
        u, v = (_rounded(side, x, dtype, data) for side, x in (("u", u), ("v", v)))
        parts = list(zip(pieces, torch.split(u, ranks), torch.split(v, ranks), strict=True))
        found = torch.cat([piece.project(a.T.contiguous(), b.T.contiguous()) for piece, a, b in parts])
        squares = (u.square().sum(1) * v.square().sum(1)).clamp(min=torch.finfo(torch.float64).tiny)
        s = (found / squares).numpy()
        if not np.isfinite(s).all() or np.max(np.abs(s), initial=0.0) > LARGEST:
            raise NonFiniteError(
                f"the delta of tensor '{self._name}' in {self._vector.describe()} has a singular value beyond 3e38.",
                "repair the inputs.",
            )
        data["s"] = s.astype(np.float32)
        if self._shape.split is not None:
            data["ranks"] = np.array(ranks, np.int32)
        stored = data["s"].astype(np.float64)
        error = _by_norms(parts, torch.from_numpy(stored), found)
        if error is None:
            factors = self._shape.widened(ranks, u.numpy(), stored, v.numpy())
            error = _error(self._vector, self._name, factors, poll)
        return error

    def emit(self, write: Write) -> None:
        """See the base class."""
        if self._delegated:
            self._instead.emit(write)
            return
        for role, data in self._data.items() if self.kind == "tsv" else ():
            write(role, data)
        self._data = {}

    def fields(self) -> Mapping[str, Any]:
        """See the base class."""
        return self._instead.fields() if self._delegated else self._fields


Choice = Callable[[Sequence[Piece]], "Sequence[Triplets] | None"]


def _signed(triplets: Triplets) -> Triplets:
    """The same with the largest entry of each left vector positive: the sign is free, and so every library agrees."""
    import torch

    from taskvec.ops.triplets import Triplets

    largest = triplets.u.gather(0, triplets.u.abs().argmax(0, keepdim=True)) if triplets.rank else triplets.u[:1]
    sign = torch.where(largest < 0.0, -1.0, 1.0)
    return Triplets(triplets.u * sign, triplets.s, triplets.v * sign)


def _rounded(role: str, x: torch.Tensor, dtype: DType, data: dict[str, np.ndarray[Any, Any]]) -> torch.Tensor:
    """What a factor decodes to; its bytes go into `data`."""
    import numpy as np
    import torch

    from taskvec.ops.bits import Block, decode, encode
    from taskvec.ops.quantize import add_dequantized, quantize

    flat = x.reshape(-1).numpy()
    if dtype.code == "I8":
        data[role], data[f"{role}_scales"], _ = quantize(flat, group=GROUP, limit=127)
        back = np.zeros(flat.size)
        add_dequantized(back, 1.0, data[role], data[f"{role}_scales"], group=GROUP, start=0)
    else:
        data[role] = encode(flat, dtype)
        back = decode(Block(data[role], dtype))
    return torch.from_numpy(back).reshape(x.shape)


def _by_norms(
    parts: Sequence[tuple[Piece, torch.Tensor, torch.Tensor]], s: torch.Tensor, found: torch.Tensor
) -> RelativeError | None:
    """The error from ‖A‖² - 2 Σ sⱼ uⱼᵀAvⱼ + ‖Σ sⱼ uⱼ vⱼᵀ‖², with `found` = uⱼᵀAvⱼ; None where they nearly cancel."""
    import torch

    from taskvec.ops.spectral import column_gram

    norm = math.hypot(*(piece.norm() for piece, _, _ in parts))
    if norm == 0.0:
        return None
    ranks, lost = [len(u) for _, u, _ in parts], 1.0
    for (_, u, v), a, b in zip(parts, torch.split(s / norm, ranks), torch.split(found / norm, ranks), strict=True):
        lost += float(a @ (column_gram(u.T) * column_gram(v.T)) @ a - 2.0 * (a @ b))
    if lost < _CANCELED:
        return None
    error = RelativeError()
    error.add_norms(norm, math.sqrt(lost) * norm)
    return error


def _error(vector: TaskVector, name: str, decoded: Factors, poll: Poll) -> RelativeError:
    """The error of `decoded`: entry by entry, or by the factors where the delta is kept as factors, too."""
    import numpy as np
    import torch

    error, factors = RelativeError(), thin_factors(vector, name)
    if factors is None:
        for first, rows in rows_of(vector, name, poll):
            error.add(rows.reshape(-1), (decoded.left[first : first + len(rows)] @ decoded.right).reshape(-1))
        return error
    from taskvec.ops.factored import norm

    left, right = (torch.from_numpy(x) for x in factors)
    both = np.hstack([factors.left, -decoded.left]), np.vstack([factors.right, decoded.right])
    error.add_norms(norm(left, right), norm(*(torch.from_numpy(x) for x in both)))
    return error


@final
class Weighed(AbstractEncoder):
    """Another codec's encoder that also states the norm of its delta, which the error of the whole vector needs."""

    def __init__(self, inner: AbstractEncoder, vector: TaskVector, name: str) -> None:
        self._inner, self._vector, self._name = inner, vector, name
        self._norm, self._finite = RelativeError(), True

    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """See the base class."""
        parts = self._inner.measure(poll)
        self.kind, self.exact = self._inner.kind, self._inner.exact
        return parts

    def emit(self, write: Write) -> None:
        """See the base class."""
        import numpy as np

        self._inner.emit(write)
        for values in blocks(self._vector, self._name) if self.kind != "zero" else ():
            self._finite = self._finite and bool(np.isfinite(values).all())
            if self._finite:
                self._norm.add(values, values)

    def fields(self) -> Mapping[str, Any]:
        """See the base class."""
        norm = {"norm": f"{self._norm.norm:.6e}"} if self._finite else {}
        return {**self._inner.fields(), **norm}
