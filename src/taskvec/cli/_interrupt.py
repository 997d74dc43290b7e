"""Ctrl-C in the middle of long work: it stops within a second and says what was kept."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, final

from taskvec.cli._console import say

_PATIENCE = 0.7  # seconds that workers get to finish their chunk


@final
class Interrupted(KeyboardInterrupt):
    """An interrupt while `destination` was being written; `done` of `total` tensors were finished."""

    def __init__(self, destination: Path, done: int, total: int) -> None:
        self.destination, self.done, self.total = destination, done, total
        self.reported = False

    def tell(self) -> None:
        """Print what was kept and how to go on."""
        self.reported = True
        partial = self.destination.with_name(f".{self.destination.name}.partial")
        if not partial.exists():
            say("Interrupted: ", f"nothing of '{self.destination}' was written.", style="bold yellow")
            return
        kept = f"{self.done:,} of {self.total:,} finished tensors are" if self.total else "what was finished is"
        say("Interrupted: ", f"{kept} kept in '{partial}'; '{self.destination}' is untouched.", style="bold yellow")
        say("To resume: ", "run the same command again. To start over, delete that folder first.", style="bold green")


@final
class Interruptible:
    """Within it, SIGINT stops the process within a second, even while workers are in the middle of a tensor.

    That is safe: everything that taskvec writes survives a kill.
    """

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self.done = self.total = 0
        self._previous: Any = None

    def __enter__(self) -> Interruptible:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        error = Interrupted(self._destination, self.done, self.total)
        timer = threading.Timer(_PATIENCE, _leave, (error,))
        timer.daemon = True
        timer.start()
        raise error


def _leave(error: Interrupted) -> None:
    if not error.reported:
        error.tell()
    os._exit(130)
