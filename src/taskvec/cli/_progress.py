"""A bar on stderr for what takes more than a moment, silent when nobody looks; and an answer to Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, final

from taskvec.checkpoint.progress import WRITING, Meter
from taskvec.cli._console import say
from taskvec.cli._interrupt import Interrupted

if TYPE_CHECKING:
    from rich.progress import Progress

    from taskvec.checkpoint.checkpoint import Checkpoint

_DELAY = 1.0  # seconds: what is done by then needs no bar
_PATIENCE = 0.3  # seconds that workers get, after Ctrl-C, to finish their chunk


@final
class Working:
    """Long work on `what`: shows `label`, then the step and how much of it is done; it is the `Progress` of the work.

    `kept` is the folder where a stopped run leaves what is finished (None: nowhere); `unit` is what is counted.

    Ctrl-C stops the process within a second, even while workers are in the middle of a tensor; that is safe, since
    everything that taskvec writes survives a kill.
    """

    def __init__(
        self,
        label: str,
        what: str,
        *,
        kept: Path | None,
        quiet: bool,
        last: str = "finishing",
        unit: Literal["bytes", "steps"] = "bytes",
    ) -> None:
        self._label, self._last, self._what, self._kept, self._unit = label, last, what, kept, unit
        self._step, self._done, self._total, self._detail = "", 0, 0, ""
        self._bar: Progress | None = None
        self._shown_step = ""
        self._lock = threading.RLock()
        self._timer = threading.Timer(_DELAY, self._start)
        self._timer.daemon = True
        self._quiet = quiet
        self._shown = sys.stderr.isatty() and not quiet
        self._previous: Any = None

    def __enter__(self) -> Working:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
        if self._shown:
            self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._clear()
        if self._previous is not None and not isinstance(exception[1], Interrupted):
            signal.signal(signal.SIGINT, self._previous)

    def __call__(self, step: str, done: int, total: int, *, detail: str = "") -> None:
        """Note how far the work is; from any thread."""
        with self._lock:
            self._step, self._done, self._total, self._detail = step, done, total, detail
            self._update()

    def tell(self, line: str) -> None:
        """Print a line that stays, above the bar where one is shown."""
        with self._lock:
            if self._quiet:
                return
            if self._bar is None:
                say("", line)
            else:
                self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        count = DownloadColumn() if self._unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), count, TextColumn("{task.fields[detail]}"))
        with self._lock:
            if not self._shown:
                return
            console = Console(stderr=True)
            self._bar = Progress(*columns, TimeRemainingColumn(compact=True), console=console, transient=True)
            self._bar.add_task(self._label, total=None, detail="")
            self._bar.start()
            self._update()

    def _update(self) -> None:
        if self._bar is not None:
            (task,) = self._bar.task_ids
            if self._step != self._shown_step:
                self._bar.reset(task)
                self._shown_step = self._step
            finishing = self._step == WRITING and self._done == self._total
            label = self._last if finishing else self._step or self._label
            self._bar.update(
                task, completed=self._done, total=self._total or None, description=label, detail=self._detail
            )

    def _clear(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._shown = False
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        error = Interrupted(self._what, self._kept, self._done, self._total if self._step == WRITING else 0)
        timer = threading.Timer(_PATIENCE, self._leave, (error,))
        timer.daemon = True
        timer.start()
        raise error

    def _leave(self, error: Interrupted) -> None:
        self._clear()
        error.tell()
        os._exit(130)


def partial_of(output: Path) -> Path:
    """Where an output grows until it is complete."""
    return output.with_name(f".{output.name}.partial")


def hash_all(checkpoint: Checkpoint, *, quiet: bool) -> str:
    """The fingerprint of a checkpoint, with a bar while its tensors are read."""
    fingerprints = checkpoint.fingerprints
    names = fingerprints.names()
    if fingerprints.known() is None:
        specs = checkpoint.specs
        with Working("hashing", "the fingerprint", kept=None, quiet=quiet) as working:
            meter = Meter(working, "hashing", sum(specs[name].nbytes for name in names))
            for name in names:
                fingerprints.tensor(name)
                meter.reach(name, specs[name].nbytes)
    return fingerprints.whole()
