"""The matrices that a delta is decomposed as: read once from the checkpoints, or as the factors it is kept as."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, final

from taskvec.checkpoint.output import Poll
from taskvec.checkpoint.roles import Split
from taskvec.codecs._factored import matrix_shape
from taskvec.delta import CHUNK, Factors
from taskvec.errors import NonFiniteError
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    import torch

    from taskvec.ops.bits import Floats
    from taskvec.ops.triplets import Triplets

SMALLEST = 1e-30  # of the largest entry of a matrix, whose others then have all their digits in float32
LARGEST = 3e38  # of an entry and of a singular value, which is stored in float32


class Piece(Protocol):
    """One matrix (m, n): a whole tensor, or one part of a split one."""

    def triplets(self, rank: int, *, optimal: float = 1.0) -> Triplets:
        """Its `rank` largest singular triplets, fewer where it has fewer.

        Below 1, `optimal` is the share of what they keep of the squared norm that will do.
        """

    def spectrum(self) -> torch.Tensor:
        """Its singular values in descending order, float64."""

    def project(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """uᵀ · matrix · v for each column of u (m, k) and v (n, k), float64."""

    def norm(self) -> float:
        """The Frobenius norm."""


@final
class ThinProduct(Piece):
    """left @ right, which is never formed."""

    def __init__(self, left: torch.Tensor, right: torch.Tensor) -> None:
        self._left, self._right = left, right

    def triplets(self, rank: int, *, optimal: float = 1.0) -> Triplets:
        """See the base class; a product of rank K has no more than K."""
        from taskvec.ops.factored import recompressed

        return recompressed(self._left, self._right, rank)

    def spectrum(self) -> torch.Tensor:
        """See the base class."""
        from taskvec.ops.factored import recompressed

        return recompressed(self._left, self._right).s

    def project(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        return ((u.T @ self._left) * (self._right @ v).T).sum(1)

    def norm(self) -> float:
        """See the base class."""
        from taskvec.ops.factored import norm

        return norm(self._left, self._right)


@final
class DenseMatrix(Piece):
    """A matrix in float32, and the power of two that it was divided by."""

    def __init__(self, matrix: torch.Tensor, exponent: int) -> None:
        self._matrix, self._scale = matrix, math.ldexp(1.0, exponent)

    def triplets(self, rank: int, *, optimal: float = 1.0) -> Triplets:
        """See the base class; by the cheapest route that is accurate enough."""
        from taskvec.ops.spectral import leading
        from taskvec.ops.triplets import Triplets

        found = leading(self._matrix, rank, energy=optimal).triplets
        return Triplets(found.u.double(), found.s.double() * self._scale, found.v.double())

    def spectrum(self) -> torch.Tensor:
        """See the base class."""
        from taskvec.ops.allocation import spectrum

        return spectrum(self._matrix) * self._scale

    def project(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        import torch

        total, rows = torch.zeros(u.shape[1], dtype=torch.float64), max(1, CHUNK // max(1, self._matrix.shape[1]))
        for at in range(0, u.shape[0], rows):
            total += (u[at : at + rows] * (self._matrix[at : at + rows].double() @ v)).sum(0)
        return total * self._scale

    def norm(self) -> float:
        """See the base class."""
        import torch

        return float(torch.linalg.vector_norm(self._matrix, dtype=torch.float64)) * self._scale


def rows_of(vector: TaskVector, name: str, poll: Poll) -> Iterator[tuple[int, Floats]]:
    """(first row, rows) of a delta as a matrix, about a million float64 entries at a time.

    Raises:
        NonFiniteError: NaN or Inf among them.
    """
    import numpy as np

    m, n = matrix_shape(vector.specs[name])
    step = max(1, CHUNK // max(1, n))
    for first in range(0, m, step):
        poll()
        stop = min(first + step, m)
        values = vector.values(name, first * n, stop * n)
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"the delta of tensor '{name}' has NaN or Inf in {vector.describe()}.", "repair the inputs."
            )
        yield first, values.reshape(stop - first, n)


def thin_factors(vector: TaskVector, name: str) -> Factors | None:
    """The factors of a delta that is kept as such, where they are thinner than the matrix.

    Raises:
        NonFiniteError: NaN or Inf in them.
    """
    import numpy as np

    found = vector.factors(name)
    if found is None or found.right.shape[0] >= min(found.left.shape[0], found.right.shape[1]):
        return None
    if not all(np.isfinite(x).all() for x in found):
        raise NonFiniteError(
            f"the delta of tensor '{name}' has NaN or Inf in {vector.describe()}.", "repair the inputs."
        )
    return found


def pieces_of(vector: TaskVector, name: str, split: Split | None, poll: Poll) -> Sequence[Piece]:
    """The matrices of one tensor, in order; none where its delta is 0.

    A dense delta is read in float32. What has no magnitude for that is read twice more, for the power of two of its
    largest entry and for its values divided by that, so that 1e-200 and 1e200 decompose like 1.

    Raises:
        NonFiniteError: NaN or Inf in the delta.
    """
    import torch

    if vector.is_zero(name):
        return []
    shape = matrix_shape(vector.specs[name])
    places = split.pieces(shape) if split else [(slice(None), slice(None))]
    factors = thin_factors(vector, name)
    if factors is not None:
        left, right = (torch.from_numpy(x) for x in factors)
        if not (bool(left.any()) and bool(right.any())):
            return []
        return [ThinProduct(left[rows], right[:, columns]) for rows, columns in places]
    matrix, exponent = _read(vector, name, shape, poll)
    if exponent is None:
        return []
    return [DenseMatrix(matrix[rows, columns], exponent) for rows, columns in places]


def _read(vector: TaskVector, name: str, shape: tuple[int, int], poll: Poll) -> tuple[torch.Tensor, int | None]:
    """A delta in float32 and the power of two that it was divided by; None: it is 0."""
    import numpy as np
    import torch

    found = _narrow(vector, name, shape, poll)
    if found is not None:
        return found, 0
    largest = max((float(np.max(np.abs(rows), initial=0.0)) for _, rows in rows_of(vector, name, poll)), default=0.0)
    if largest == 0.0:
        return torch.empty(0), None
    if largest > LARGEST:
        raise NonFiniteError(
            f"the delta of tensor '{name}' in {vector.describe()} has a value beyond 3e38, which cannot be factored.",
            "repair the inputs.",
        )
    exponent = math.frexp(largest)[1]
    matrix = np.empty(shape, np.float32)
    for first, rows in rows_of(vector, name, poll):
        matrix[first : first + len(rows)] = np.ldexp(rows, -exponent)
    return torch.from_numpy(matrix), exponent


def _narrow(vector: TaskVector, name: str, shape: tuple[int, int], poll: Poll) -> torch.Tensor | None:
    """A delta in float32, where that rounds it once and it has neither NaN nor magnitudes that need care."""
    import numpy as np
    import torch

    leaf = vector.single()
    if leaf is None or vector.specs[name].dtype.code == "F64":
        return None
    values = np.empty(math.prod(shape), np.float32)
    for start in range(0, values.size, CHUNK):
        poll()
        if leaf.read32(values[start : start + CHUNK], name, start):
            return None
    matrix = torch.from_numpy(values).reshape(shape)
    largest = max(abs(float(x)) for x in matrix.aminmax()) if values.size else 0.0
    return matrix if SMALLEST < largest <= LARGEST else None
