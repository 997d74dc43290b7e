"""What a protocol gets: the suite as it was opened, the vectors of one seed, and each task's own scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from taskvec.bench.tuned import Tuned
from taskvec.bench.work import Work
from taskvec.evaluate import Scores


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """`val` and `test` are the scores of the fine-tuned models; `skipped` says what is left out, and why."""

    work: Work
    tuned: Tuned
    val: Scores
    test: Scores
    skipped: dict[str, str] = field(default_factory=dict)

    def leave_out(self, what: str, because: str) -> None:
        """Notes it, and says so."""
        self.skipped[what] = because
        self.work.say(f"  {what} is left out: {because}")
