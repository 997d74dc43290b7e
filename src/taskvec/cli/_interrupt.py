"""What Ctrl-C in the middle of long work leaves behind, and how to say it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import final

from taskvec.cli._console import say


@final
class Interrupted(KeyboardInterrupt):
    """An interrupt while `what` was being made; `done` of `total` tensors are kept in `kept`, if that exists."""

    def __init__(self, what: str, kept: Path | None, done: int, total: int) -> None:
        self.what, self.kept, self.done, self.total = what, kept, done, total
        self._told = False
        self._telling = threading.Lock()

    def tell(self) -> None:
        """Print what was kept and how to go on, once; when another thread is at it, wait until it is printed."""
        with self._telling:
            if not self._told:
                self._tell()
            self._told = True

    def _tell(self) -> None:
        if self.kept is None:
            say("Interrupted.", "", style="bold yellow")
        elif not self.kept.exists():
            say("Interrupted: ", f"nothing of {self.what} was written.", style="bold yellow")
        else:
            count = f"{self.done:,} of {self.total:,} tensors are" if self.total else "what was finished is"
            say("Interrupted: ", f"{count} kept in '{self.kept}'; {self.what} is untouched.", style="bold yellow")
            say(
                "To resume: ",
                "run the same command again. To start over, delete that folder first.",
                style="bold green",
            )
