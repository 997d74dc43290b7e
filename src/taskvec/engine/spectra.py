"""Merges of matrices by singular triplets: one task's delta decomposed at a time, the merged matrix kept as factors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.decompositions import leading_of
from taskvec.delta import CHUNK, Factors
from taskvec.errors import ConvergenceError, NonFiniteError
from taskvec.methods._triplets import Spectral, Wanted

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from taskvec.engine.merging import Input, Merging
    from taskvec.ops.bits import Floats
    from taskvec.ops.triplets import Triplets

Piece = tuple[slice, slice]
_THIN = 8  # factors of less than this part of the rank are multiplied where they are read, others once


@final
class _Held:
    """The merge of one matrix in its parts; whoever has the lock computes it.

    Products entry by entry cost more than one product of all where the rank is high: then that is kept, too.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.merged: list[Triplets] | None = None
        self.dense: tuple[npt.NDArray[Any], float] | None = None
        self.factors: Factors | None = None


@final
class Spectra:
    """The matrices that a spectral method merges, computed when read; the last `keep` are held, for other ranges.

    Held beside them, a worker: the delta of one task, and the triplets of all.
    """

    def __init__(self, merging: Merging, spectral: Spectral, *, keep: int) -> None:
        self._merging, self._spectral, self._keep = merging, spectral, keep
        self._wanted = {n: self._wanted_of(n) for n in merging.specs if merging.method_for(n) is merging.method}
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        """Whether the method takes this tensor; others go to its `otherwise`."""
        return name in self._wanted

    def _wanted_of(self, name: str) -> Wanted:
        shape = _shape(self._merging.specs[name].shape, self._pieces(name)[0])
        return self._spectral.wanted(shape, len(self._merging.inputs), **self._merging.bound.at(name))

    def _pieces(self, name: str) -> Sequence[Piece]:
        """The matrices in one tensor."""
        place = self._merging.layout[name]
        return place.split.pieces(place.spec.shape) if place.split else [(slice(None), slice(None))]

    def factors(self, name: str) -> Factors | None:
        """The merged matrix as left @ right, float64; None where its rank is beyond that of a matrix."""
        return self._held_of(name, dense=False).factors

    def add_to(self, total: Floats, coefficient: float, name: str, start: int) -> None:
        """`total += coefficient * merged[start : start + total.size]`, in float64, only the rows it needs."""
        import numpy as np

        from taskvec.ops.bits import add_scaled_product

        held = self._held_of(name, dense=True)
        if held.dense is not None:
            values, unit = held.dense
            total += np.multiply(values[start : start + total.size], coefficient * unit, dtype=np.float64)
        elif held.factors is not None:
            add_scaled_product(total, coefficient, *held.factors, start)

    def _held_of(self, name: str, *, dense: bool) -> _Held:
        """The merge with its factors; with its product instead, if that is wanted and pays."""
        with self._lock:
            held = self._held.setdefault(name, _Held())
            self._held.move_to_end(name)
            while len(self._held) > self._keep:
                self._held.popitem(last=False)
        shape, pieces = self._merging.specs[name].shape, self._pieces(name)
        with held.lock:
            if held.merged is None:
                held.merged = self._merge(name)
            rank = sum(x.rank for x in held.merged)
            if dense and rank * _THIN > min(shape):
                if held.dense is None:
                    held.dense = _dense(shape, pieces, held.merged, exact=self._wanted[name].exact)
            elif held.factors is None and rank <= min(shape):
                held.factors = _factors(shape, pieces, held.merged)
        return held

    def _merge(self, name: str) -> list[Triplets]:
        pieces, bound = self._pieces(name), self._merging.bound.at(name)
        with self._merging.computing():
            spectra: list[list[Triplets]] = [[] for _ in pieces]
            for task, source in self._merging.inputs.items():
                for found, triplets in zip(spectra, self._decomposed(name, task, source), strict=True):
                    found.append(triplets)
            merged = []
            for of_piece in spectra:
                triplets, notes = self._spectral.merge(of_piece, **bound)
                of_piece.clear()
                merged.append(triplets)
                for what, number in notes.items():
                    self._merging.note(name, what, number)
        return merged

    def _decomposed(self, name: str, task: str, source: Input) -> Iterator[Triplets]:
        """The triplets of each part of one task's delta, from its factors where they are thinner than the matrix."""
        from taskvec.ops.factored import leading_of_product
        from taskvec.ops.triplets import Triplets

        wanted, shape = self._wanted[name], self._merging.specs[name].shape
        matrix = factors = None
        if not source.is_zero(name):
            factors = self._thin(name, task, source)
            matrix = self._read(name, task, source) if factors is None else None
        for rows, columns in self._pieces(name):
            try:
                if factors is not None:
                    yield leading_of_product(factors[0][rows], factors[1][:, columns], wanted.rank).triplets
                elif matrix is not None:
                    part = matrix[rows, columns]
                    yield leading_of(part, wanted.rank, exact=wanted.exact).triplets
                else:
                    yield Triplets.none(*_shape(shape, (rows, columns)))
            except ConvergenceError as error:
                raise ConvergenceError(f"tensor '{name}' of '{task}': {error.fact}", error.fix) from error

    def _thin(self, name: str, task: str, source: Input) -> tuple[torch.Tensor, torch.Tensor] | None:
        import torch

        found = source.factors(name)
        if found is None or found.right.shape[0] >= min(self._merging.specs[name].shape):
            return None
        left, right = torch.as_tensor(found.left), torch.as_tensor(found.right)
        if not (bool(left.isfinite().all()) and bool(right.isfinite().all())):
            raise NonFiniteError(
                f"tensor '{name}' has NaN or Inf in '{task}' ({source.describe()}).",
                "repair the checkpoint it comes from.",
            )
        return left, right

    def _read(self, name: str, task: str, source: Input) -> torch.Tensor:
        import numpy as np
        import torch

        spec = self._merging.specs[name]
        values = np.empty(spec.numel, np.float32)
        for start in range(0, spec.numel, CHUNK):
            out = values[start : start + CHUNK]
            if source.read32(out, name, start):
                self._merging.refuse(name, start, out.size, task, source)
        return torch.as_tensor(values).reshape(spec.shape)


def _shape(shape: Sequence[int], piece: Piece) -> tuple[int, int]:
    m, n = (len(range(size)[cut]) for size, cut in zip(shape, piece, strict=True))
    return m, n


def _dense(
    shape: Sequence[int], pieces: Sequence[Piece], merged: Sequence[Triplets], *, exact: bool
) -> tuple[npt.NDArray[Any], float]:
    """All entries, flattened, and what they are to be multiplied by; products are as precise as the triplets are."""
    import torch

    kind = torch.float64 if exact else torch.float32
    largest = max((float(x.s.abs().amax()) for x in merged if x.rank), default=0.0)
    scaled = [x.scaled(1.0 / largest) if largest else x for x in merged]
    found = torch.empty(tuple(shape), dtype=kind)
    for piece, x in zip(pieces, scaled, strict=True):
        found[piece] = x.to(kind).matrix()
    return found.reshape(-1).numpy(), largest


def _factors(shape: Sequence[int], pieces: Sequence[Piece], merged: Sequence[Triplets]) -> Factors:
    """The factors of the whole tensor; the blocks of other parts are 0."""
    import numpy as np

    rank = sum(x.rank for x in merged)
    left, right, at = np.zeros((shape[0], rank)), np.zeros((rank, shape[1])), 0
    for (rows, columns), x in zip(pieces, merged, strict=True):
        stop = at + x.rank
        left[rows, at:stop] = (x.u * x.s).double().cpu().numpy()
        right[at:stop, columns] = x.v.T.double().cpu().numpy()
        at = stop
    return Factors(left, right)
