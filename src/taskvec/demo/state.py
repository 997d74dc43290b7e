"""What the steps of the demonstration share: the folder, the model, the tasks, and scores that are remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from taskvec.bench.memo import Memo
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.evaluate import Prepared, Score, Scores, deltas_of, prepare, resident, score
from taskvec.suites import Head, Suite, TextEncoder
from taskvec.tune import Settings
from taskvec.vector import TaskVector

Say = Callable[[str], None]
VALIDATION = 80  # texts a task on which scales are chosen


@final
@dataclass(slots=True)
class Demo:
    """What the steps share."""

    folder: Path
    settings: Settings
    say: Say
    memo: Memo
    suite: Suite
    encoder: TextEncoder
    heads: Mapping[str, Head]
    base: Checkpoint
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and say what it is."""
        self.say(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 1)

    def data_key(self, split: str, tasks: tuple[str, ...]) -> dict[str, Any]:
        """What a score depends on besides the weights."""
        versions = {t: self.suite.task(t).version for t in tasks}
        return {"suite": self.suite.name, "libraries": dict(self.suite.versions), "tasks": versions, "split": split}

    def prepared(self, split: str, tasks: tuple[str, ...]) -> Prepared:
        """The texts of a split; of validation a fixed sample."""
        limit = VALIDATION if split == "val" else None
        return prepare(self.encoder, self.suite, split=split, limit=limit, tasks=tasks, heads=self.heads)

    def scores(
        self,
        label: str,
        vector: TaskVector | None,
        *,
        scale: float = 1.0,
        split: str = "test",
        tasks: tuple[str, ...] = (),
    ) -> Scores:
        """Scores of base + scale × vector, on one resident model; remembered by what the weights are made of."""
        tasks = tasks or self.suite.names()
        weights = (self.base if vector is None else self.base + vector).fingerprint()
        limit = VALIDATION if split == "val" else 0
        key = {**self.data_key(split, tasks), "weights": weights, "scale": scale, "limit": limit}

        def compute() -> list[dict[str, Any]]:
            self.say(f"  {label} on {split}")
            with resident(self.encoder.module, {} if vector is None else deltas_of(self.encoder, vector)) as move:
                move(scale)
                return to_rows(score(self.encoder, self.prepared(split, tasks), autocast=True))

        return self.from_rows(self.memo(key, compute), split)

    def each(self, vectors: Mapping[str, TaskVector], split: str) -> Scores:
        """Each task's own vector on that task."""
        rows = [self.scores(name, v, split=split, tasks=(name,)).rows[0] for name, v in vectors.items()]
        return Scores(rows=tuple(rows), suite=self.suite.name, split=split, regime="standard")

    def from_rows(self, rows: list[dict[str, Any]], split: str) -> Scores:
        """Scores from what `to_rows` made of them."""
        return Scores(rows=tuple(Score(**r) for r in rows), suite=self.suite.name, split=split, regime="standard")


def to_rows(scores: Scores) -> list[dict[str, Any]]:
    """The rows as plain data."""
    return [asdict(row) for row in scores.rows]
