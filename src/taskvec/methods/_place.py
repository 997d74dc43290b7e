"""Where a block lies: what a method may know besides the numbers (it never sees a file, a model or a layout)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

Report = Callable[[str, float], None]


def _unheard(what: str, number: float) -> None:
    """Nobody asked."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """The tensor, its shape, the first entry of the block, and the names of the tasks.

    `pieces` are the matrices that a fused one consists of, where it is to be cut. A method that acts on matrices is
    called for each, and sees none; one that acts on whole tensors cuts itself.

    `report(what, number)` is for what is worth knowing of the tensor afterwards, e.g. how many directions a method left
    out; the largest number is kept (see `notes_of`).
    """

    tensor: str
    shape: tuple[int, ...]
    start: int
    tasks: tuple[str, ...]
    pieces: tuple[tuple[slice, slice], ...] = ()
    report: Report = field(default=_unheard, repr=False, compare=False)

    def piece(self, number: int) -> Place:
        """That of one of the matrices; it has a name of its own, so that random numbers differ."""
        rows, columns = self.pieces[number]
        m, n = (len(range(side)[cut]) for side, cut in zip(self.shape, (rows, columns), strict=True))
        return Place(f"{self.tensor}[{number}]", (m, n), 0, self.tasks, report=self.report)
