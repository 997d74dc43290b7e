"""How many singular triplets each of many matrices gets: spectra, and water-filling of a common budget of bytes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.ops.spectral import column_gram

Energies = npt.NDArray[np.float64]
_ROWS = 4096  # of the long side that are upcast at a time


def spectrum(matrix: Float[Tensor, "m n"]) -> Float[Tensor, " r"]:
    """The singular values in descending order, float64, from the Gram matrix of the short side.

    Those below about 1e-8 of the largest are lost in rounding and come out as 0.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64)
    for start in range(0, tall.shape[0], _ROWS):
        rows = tall[start : start + _ROWS].double()
        gram += column_gram(rows)
    squares = torch.linalg.eigvalsh(gram).flip(0)
    noise = squares.clamp(min=0.0).amax() * (len(squares) * torch.finfo(torch.float64).eps)
    values: Tensor = squares.where(squares > noise, 0.0).sqrt()
    return values


def kept(energies: Energies, share: float) -> int:
    """How many of the descending `energies` reach the share of their sum."""
    sums = np.cumsum(energies)
    return int(np.searchsorted(sums, share * sums[-1])) + 1 if sums.size and sums[-1] > 0.0 else 0


@final
@dataclass(frozen=True, slots=True)
class Item:
    """One tensor that takes part: squared singular values in descending order, the bytes of k triplets, and of all.

    `size(0)` is 0; `whole` is what the tensor takes undecomposed, when nothing of it is lost.
    """

    energies: Energies
    size: Callable[[int], int]
    whole: int


def water_filling(items: Sequence[Item], budget: int) -> list[int | None]:
    """For each item how many triplets it gets (None: all of it, undecomposed), in at most `budget` bytes together.

    Greedy by squared singular value a byte, which follows the upper hull of every item's energy over bytes and is
    optimal but for the last bytes, where the next step of one item no longer fits. A tensor whose whole is worth more
    a byte than its next triplet is taken whole.
    """
    states = [_State(item) for item in items]
    heap = [(-move.worth, i, move) for i, state in enumerate(states) if (move := state.next())]
    heapq.heapify(heap)
    while heap:
        _, i, move = heapq.heappop(heap)
        fits = move.cost <= budget
        budget -= move.cost if fits else 0
        again = states[i].take(move) if fits else states[i].give_up(move)
        if again is not None:
            heapq.heappush(heap, (-again.worth, i, again))
    return [None if state.whole else state.count for state in states]


@final
@dataclass(frozen=True, slots=True, order=True)
class _Move:
    worth: float
    cost: int
    whole: bool


@final
class _State:
    def __init__(self, item: Item) -> None:
        self._item, self.count, self.whole = item, 0, False
        self._affordable = True  # whether the whole may still fit
        sums: Any = np.cumsum(item.energies[::-1])[::-1]
        self._rest = np.append(sums, 0.0)

    def next(self) -> _Move | None:
        """The move that is worth most a byte."""
        at, item = self.count, self._item
        moves = []
        if at < len(item.energies) and item.energies[at] > 0.0:
            moves.append(self._move(item.energies[at], item.size(at + 1) - item.size(at), whole=False))
        if self._affordable and self._rest[at] > 0.0:
            moves.append(self._move(self._rest[at], item.whole - item.size(at), whole=True))
        return max(moves, default=None)

    @staticmethod
    def _move(gain: float, cost: int, *, whole: bool) -> _Move:
        return _Move(float(gain) / cost if cost > 0 else np.inf, cost, whole)

    def take(self, move: _Move) -> _Move | None:
        self.whole = move.whole
        self.count += not move.whole
        return None if move.whole else self.next()

    def give_up(self, move: _Move) -> _Move | None:
        """Another triplet brings the whole as much nearer as it empties the budget, so it stays out of reach."""
        self._affordable = False
        return self.next() if move.whole else None
