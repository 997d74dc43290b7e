"""What Ctrl-C in the middle of long work leaves behind, and how to say it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import final

from taskvec.cli._console import say, size


@final
class Interrupted(KeyboardInterrupt):
    """An interrupt when `done` of `total` bytes of `what` were written; `kept` holds what is finished, if it exists."""

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
            far = f" after {size(self.done)} of {size(self.total)}" if self.total else ""
            fact = f"{far}: what is finished is kept in '{self.kept}'; {self.what} is untouched."
            say("Interrupted", fact, style="bold yellow")
            say(
                "To resume: ",
                "run the same command again. To start over, delete that folder first.",
                style="bold green",
            )
