"""How many singular triplets of each matrix the codec `tsv` keeps: by density, by energy, or out of one budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.output import never
from taskvec.codecs._codec import AbstractEncoder
from taskvec.codecs._pieces import Piece, pieces_of
from taskvec.codecs._singular import Shape
from taskvec.errors import ParameterError
from taskvec.ops.threads import one_thread
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    from taskvec.ops.triplets import Triplets

Ranks = Mapping[str, Sequence[int] | None]  # of each matrix of a tensor; None: undecomposed


def rank_at(shape: Shape, density: float) -> int:
    """The triplets of each matrix at a density; 0 where they are none, or no smaller than the tensor itself.

    The density 1/T gives rank // T, also for T = 49, where 1/T is rounded down.
    """
    rank = math.floor(density * shape.rank + 1e-9)
    return rank if shape.nbytes(rank * shape.parts) < shape.whole else 0


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """How many triplets of each matrix of one tensor are kept; called with them.

    `optimal` is the share of what the best ones keep that will do at a density.
    """

    shape: Shape
    density: float | None
    energy: float | None
    ranks: Sequence[int] | None
    optimal: float = 1.0

    def __call__(self, pieces: Sequence[Piece]) -> Sequence[Triplets] | None:
        if self.density is not None:
            rank = rank_at(self.shape, self.density)
            return [piece.triplets(rank, optimal=self.optimal) for piece in pieces] if rank else None
        ranks = self.ranks if self.energy is None else self._by_energy(pieces, self.energy)
        return None if ranks is None else [p.triplets(r) for p, r in zip(pieces, ranks, strict=True)]

    def _by_energy(self, pieces: Sequence[Piece], energy: float) -> Sequence[int] | None:
        from taskvec.ops.allocation import kept

        energies, owners = _merged([piece.spectrum().numpy() for piece in pieces])
        count = kept(energies, energy)
        return _shares(owners, count, len(pieces)) if self.shape.nbytes(count) < self.shape.whole else None


def _merged(spectra: Sequence[Any]) -> tuple[Any, Any]:
    """The squared singular values of all matrices of a tensor in descending order, and whose they are."""
    import numpy as np

    energies = np.concatenate(spectra) ** 2
    owners = np.repeat(np.arange(len(spectra)), [len(s) for s in spectra])
    order = np.argsort(-energies, kind="stable")
    return energies[order], owners[order]


def _shares(owners: Any, count: int, parts: int) -> list[int]:
    import numpy as np

    return [int(n) for n in np.bincount(owners[:count], minlength=parts)]


def water_filled(
    vector: TaskVector,
    shapes: Mapping[str, Shape],
    instead: Callable[[str], AbstractEncoder],
    budget: int,
    *,
    threads: int,
) -> Ranks:
    """The ranks of each tensor under a budget: one pass that keeps nothing of a matrix but its singular values."""
    import numpy as np

    from taskvec.ops.allocation import Item, water_filling

    @one_thread()
    def measured(name: str) -> tuple[int, Any]:
        if name not in shapes:
            return sum(s.nbytes for s in instead(name).measure(never).values()), None
        spectra = [p.spectrum().numpy() for p in pieces_of(vector, name, shapes[name].split, never)]
        return shapes[name].whole, _merged(spectra) if spectra else (np.empty(0), np.empty(0, np.int64))

    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip(vector.names(), pool.map(measured, vector.names()), strict=True))
    fixed = sum(whole for whole, merged in found.values() if merged is None)
    if fixed > budget:
        raise ParameterError(
            f"codec 'tsv': a budget of {budget:,} bytes does not hold the {fixed:,} bytes of what is not decomposed.",
            "give more, or store that smaller: other='int8' (--set other=int8).",
        )
    items = {n: Item(found[n][1][0], shapes[n].nbytes, found[n][0]) for n in shapes}
    counts = water_filling(list(items.values()), budget - fixed)
    return {
        n: None if count is None else _shares(found[n][1][1], count, shapes[n].parts)
        for n, count in zip(items, counts, strict=True)
    }
