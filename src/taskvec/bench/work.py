"""What the pieces of a run share: the model, the tasks, their inputs, and what each number depends on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from taskvec import __version__
from taskvec.bench.memo import Memo
from taskvec.bench.settings import BenchSettings
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.evaluate import Prepared, Score, Scores, prepare
from taskvec.ops.hashing import hash_of
from taskvec.suites import Head, OpenedEncoder, Suite, Task, encoder_of, heads_of
from taskvec.suites.encoder import folder_of
from taskvec.tune import Step, regime_of

Plain = dict[str, Any]
Say = Callable[[str], None]
Progress = Callable[[str, Step], None]
"""Called with the task and the step of its fine-tuning."""


@final
@dataclass(slots=True, kw_only=True)
class Work:
    """A suite opened in a folder: `vectors/` holds task vectors, `cache/` the finished pieces."""

    suite: Suite
    everything: Suite
    encoder: OpenedEncoder
    base: Checkpoint
    heads: Mapping[str, Head]
    folder: Path
    settings: BenchSettings
    memo: Memo
    say: Say
    progress: Progress
    digests: Mapping[str, str]
    _inputs: dict[Any, Prepared] = field(default_factory=dict)

    @classmethod
    def open(cls, suite: Suite, folder: Path, settings: BenchSettings, *, say: Say, progress: Progress) -> Work:
        """The suite's base model, read, and the folder, made where it is not there."""
        source = folder_of(suite.base)
        encoder, everything = encoder_of(suite, source), with_controls(suite)
        heads = heads_of(everything, base=encoder)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(
            suite=suite,
            everything=everything,
            encoder=encoder,
            base=Checkpoint.open(source),
            heads=heads,
            folder=folder,
            settings=settings,
            memo=Memo(folder / "cache"),
            say=say,
            progress=progress,
            digests={task.name: digest_of(task) for task in everything.tasks},
        )

    @property
    def linear(self) -> bool:
        """Whether the vectors belong to the model to first order."""
        return regime_of(self.settings.regime).linear

    def inputs(self, split: str, tasks: Iterable[str], limit: int) -> Prepared:
        """The inputs of these tasks, cut into batches once."""
        names = tuple(tasks)
        key = (split, names, limit)
        if key not in self._inputs:
            suite, heads = self.everything, self.heads
            self._inputs[key] = prepare(self.encoder, suite, split=split, limit=limit, tasks=names, heads=heads)
        return self._inputs[key]

    def val(self, tasks: Iterable[str]) -> Prepared:
        """Those on which scales are chosen."""
        return self.inputs("val", tasks, self.settings.chosen_on)

    def test(self, tasks: Iterable[str]) -> Prepared:
        """Those on which the choice is reported."""
        return self.inputs("test", tasks, self.settings.limit)

    def about(self, tasks: Iterable[str]) -> dict[str, Any]:
        """What every number on these tasks depends on besides the vectors: base, data, how it is evaluated."""
        return {
            "taskvec": __version__,
            "base": self.base.fingerprint(),
            "temperature": self.suite.temperature,
            "tasks": {name: self.digests[name] for name in tasks},
            "linear": self.linear,
            "regime": self.settings.regime,
            **({} if self.suite.head == "names" else {"head": self.suite.head}),
        }

    def piece(self, what: str, parts: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """What `compute` gives, remembered by `what` and its `parts`; says so where it is computed."""

        def told() -> Any:
            self.say(f"  {what}")
            return compute()

        return self.memo({"what": what, **parts}, told)


def with_controls(suite: Suite) -> Suite:
    """The suite with the tasks of its controls and analogies that are not among its own."""
    more = (*suite.tasks, *suite.controls, *(task for four in suite.analogies for task in four))
    return replace(suite, tasks=tuple({task.name: task for task in reversed(more)}.values())[::-1])


def digest_of(task: Task) -> str:
    """A hash of all of a task: texts, labels, classes, phrases, metric and version."""
    splits = {name: [split.texts, split.labels] for name, split in task.splits.items()}
    known = [task.name, task.classes, task.phrases, task.metric, task.version, splits]
    return hash_of(json.dumps(known, sort_keys=True).encode())


def scores_from(plain: Mapping[str, Any]) -> Scores:
    """The scores that `Scores.plain()` described."""
    rows = tuple(Score(**row) for row in plain["rows"])
    return Scores(rows=rows, suite=plain["suite"], split=plain["split"], regime=plain["regime"])
