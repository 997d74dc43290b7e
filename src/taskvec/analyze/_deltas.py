"""All tasks' deltas of one matrix: read when asked for, decomposed once, and thrown away before the next matrix."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from taskvec.checkpoint.decompositions import leading_of
from taskvec.errors import NonFiniteError
from taskvec.ops.interference import blocks, deviation
from taskvec.ops.products import Matrix, Product, triplets_of
from taskvec.ops.triplets import Triplets

if TYPE_CHECKING:
    from taskvec.vector import TaskVector

Piece = tuple[slice, slice]


@final
class Deltas:
    """The deltas δ_t (m, n) of T tasks, and that of the merged vector.

    Held at a time: one matrix, and the largest `rank` triplets of each task: r // T of them by default (at least 1),
    so that all tasks together are no larger than one decomposition. A zero delta has no triplets.
    Deltas that their vector keeps as factors stay factors.
    """

    def __init__(
        self,
        name: str,
        vectors: Mapping[str, TaskVector],
        merged: TaskVector,
        *,
        piece: Piece | None = None,
        density: float | None = None,
    ) -> None:
        self.name, self.tasks = name, tuple(vectors)
        self._vectors, self._merged, self._piece = vectors, merged, piece
        self._density = density
        self._triplets: dict[str, Triplets] = {}
        self._spectra: dict[str, Tensor] = {}
        self._last: tuple[TaskVector, Matrix] | None = None

    @property
    def title(self) -> str:
        """The name in tables; a part of a fused matrix says which rows and columns it is."""
        if self._piece is None:
            return self.name
        rows, columns = ("" if c == slice(None) else f"{c.start}:{c.stop}" for c in self._piece)
        return f"{self.name}[{rows or ':'}, {columns or ':'}]"

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        m, n = next(v.specs[self.name].shape for v in self._vectors.values() if self.name in v.specs)
        rows, columns = self._piece or (slice(None), slice(None))
        return len(range(m)[rows]), len(range(n)[columns])

    @property
    def rank(self) -> int:
        """How many triplets of each task are looked at, where it has so many."""
        return self.rank_at(self._density)

    def rank_at(self, density: float | None) -> int:
        """How many triplets that fraction of min(m, n) is; None: one part in T; at least 1."""
        r = min(self.shape)
        return max(1, r // len(self.tasks) if density is None else int(density * r))

    def matrix(self, task: str) -> Matrix:
        """δ_t, float32, or float64 factors; read anew, but for the last one that was asked for.

        Raises:
            NonFiniteError: NaN or Inf in it, or a value beyond float32's range.
        """
        return self._read(self._vectors[task])

    def merged(self) -> Matrix:
        """The merged delta; as `matrix`."""
        return self._read(self._merged)

    def triplets(self, task: str) -> Triplets:
        """The largest singular triplets of δ_t; fewer, where its rank is smaller."""
        if task not in self._triplets:
            matrix, rank = self.matrix(task), self.rank
            found = triplets_of(matrix, rank) if isinstance(matrix, Product) else leading_of(matrix, rank).triplets
            self._triplets[task] = _compact(found)
        return self._triplets[task]

    def spectrum(self, task: str) -> Tensor:
        """All singular values of δ_t that are not 0, in descending order, float64."""
        if task not in self._spectra:
            self._spectra[task] = triplets_of(self.matrix(task)).s.double()
        return self._spectra[task]

    @cached_property
    def ranks(self) -> list[int]:
        """How many triplets each task has here."""
        return [self.triplets(t).rank for t in self.tasks]

    @cached_property
    def values(self) -> Tensor:
        """The singular values of all tasks' triplets, side by side (Σk,), float64."""
        return torch.cat([self.triplets(t).s.double() for t in self.tasks])

    def left(self) -> Tensor:
        """U = [U₁ .. U_T] (m, Σk), float64."""
        return torch.hstack([self.triplets(t).u.double() for t in self.tasks])

    def right(self) -> Tensor:
        """V = [V₁ .. V_T] (n, Σk), float64."""
        return torch.hstack([self.triplets(t).v.double() for t in self.tasks])

    @cached_property
    def deviations(self) -> tuple[Tensor, Tensor]:
        """UᵀU − I and VᵀV − I, (Σk, Σk) in float64."""
        return deviation(self.left(), self.ranks), deviation(self.right(), self.ranks)

    def blocks(self) -> list[slice]:
        """Where the triplets of each task lie in `values` and `deviations`."""
        return blocks(self.ranks)

    def _read(self, vector: TaskVector) -> Matrix:
        if self._last is None or self._last[0] is not vector:
            self._last = None  # before the next one is read
            self._last = vector, self._piece_of(vector)
        return self._last[1]

    def _piece_of(self, vector: TaskVector) -> Matrix:
        rows, columns = self._piece or (slice(None), slice(None))
        factors = vector.factors(self.name)
        if factors is not None:
            left, right = (torch.from_numpy(f) for f in factors)
            if not (left.isfinite().all() and right.isfinite().all()):
                raise NonFiniteError(
                    f"the factors of tensor '{self.name}' in {vector.describe()} hold NaN or Inf.",
                    "repair the adapter they come from.",
                )
            return Product(left[rows], right[:, columns])
        if vector.is_zero(self.name):
            return torch.zeros(self.shape)
        return vector[self.name][rows, columns]


def _compact(found: Triplets) -> Triplets:
    """The same in memory of its own: a view would keep the whole decomposition alive."""
    return Triplets(found.u.clone(), found.s.clone(), found.v.clone())
