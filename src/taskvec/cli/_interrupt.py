"""What Ctrl-C in the middle of long work leaves behind, and how to say it."""

from __future__ import annotations

from pathlib import Path
from typing import final

from taskvec.cli._console import say


@final
class Interrupted(KeyboardInterrupt):
    """An interrupt while `destination` was being written; `done` of `total` tensors were finished."""

    def __init__(self, destination: Path | None, done: int, total: int) -> None:
        self.destination, self.done, self.total = destination, done, total
        self.reported = False

    def tell(self) -> None:
        """Print what was kept and how to go on, once."""
        if self.reported:
            return
        self.reported = True
        if self.destination is None:
            say("Interrupted.", "", style="bold yellow")
            return
        partial = self.destination.with_name(f".{self.destination.name}.partial")
        if not partial.exists():
            say("Interrupted: ", f"nothing of '{self.destination}' was written.", style="bold yellow")
            return
        kept = f"{self.done:,} of {self.total:,} tensors are" if self.total else "what was finished is"
        say("Interrupted: ", f"{kept} kept in '{partial}'; '{self.destination}' is untouched.", style="bold yellow")
        say("To resume: ", "run the same command again. To start over, delete that folder first.", style="bold green")
