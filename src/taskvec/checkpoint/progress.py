"""How far long work is: called with the name of the step, the bytes done and the bytes in all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import final

Progress = Callable[[str, int, int], None]
WRITING = "writing"  # the step of every writer; what it has done survives an interrupt


def unseen(step: str, done: int, total: int) -> None:
    """The `Progress` of work that nobody watches."""


@final
class Meter:
    """The progress of one step, added up from several pieces, on several threads."""

    def __init__(self, progress: Progress, step: str, total: int) -> None:
        self._progress, self._step, self._total = progress, step, total
        self._reached: dict[Hashable, int] = {}
        self._done = 0
        self._lock = threading.Lock()

    def reach(self, piece: Hashable, nbytes: int) -> None:
        """Note that `nbytes` of a piece are done by now."""
        with self._lock:
            self._done += nbytes - self._reached.get(piece, 0)
            self._reached[piece] = nbytes
            self._progress(self._step, self._done, self._total)
