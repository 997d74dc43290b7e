"""A bar on stderr for what takes more than a moment; silent when nobody looks."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, final

from taskvec.cli._interrupt import Interruptible

if TYPE_CHECKING:
    from rich.progress import Progress

_DELAY = 1.0  # seconds: what is done by then needs no bar


@final
class Working:
    """Long work on `destination`: shows `label` and tensors done, and answers Ctrl-C.

    Call it with (tensors done, tensors in all), from any thread.
    """

    def __init__(self, label: str, destination: Path, *, quiet: bool, last: str = "finishing") -> None:
        self._label, self._last = label, last
        self._interruptible = Interruptible(destination)
        self._bar: Progress | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(_DELAY, self._start)
        self._timer.daemon = True
        self._shown = sys.stderr.isatty() and not quiet

    def __enter__(self) -> Working:
        self._interruptible.__enter__()
        if self._shown:
            self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._shown = False
            if self._bar is not None:
                self._bar.stop()
        self._interruptible.__exit__(*exception)

    def __call__(self, done: int, total: int) -> None:
        """Note how far the work is."""
        self._interruptible.done, self._interruptible.total = max(done, self._interruptible.done), total
        self._update()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tensors"))
        with self._lock:
            if not self._shown:
                return
            console = Console(stderr=True)
            self._bar = Progress(*columns, TimeRemainingColumn(compact=True), console=console, transient=True)
            self._bar.add_task(self._label, total=None)
            self._bar.start()
        self._update()

    def _update(self) -> None:
        with self._lock:
            if self._bar is None:
                return
            done, total = self._interruptible.done, self._interruptible.total
            label = self._last if total and done == total else self._label
            (task,) = self._bar.task_ids
            self._bar.update(task, completed=done, total=total or None, description=label)
