"""One fine-tuning a task and seed, kept as a task vector; an interrupted one goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from taskvec.bench.memo import key_of
from taskvec.bench.work import Work
from taskvec.checkpoint.durable import replace_durably
from taskvec.errors import ParameterError
from taskvec.suites import Task
from taskvec.tune import Settings, Step, tune
from taskvec.vector import TaskVector


@final
@dataclass(frozen=True, slots=True)
class Tuned:
    """The task vectors of one seed; `keys` say what each depends on."""

    seed: int
    vectors: Mapping[str, TaskVector]
    keys: Mapping[str, str]


def tuned(work: Work, seed: int) -> Tuned:
    """Fine-tune every task that was not fine-tuned with the same data, base, settings and seed before.

    Raises:
        ParameterError: one took longer than the time limit; what was done by then is kept.
    """
    settings = work.settings.tuning(seed, work.suite.learning_rates)
    vectors, keys = {}, {}
    for task in work.suite.tasks:
        keys[task.name] = key_of({**work.about([task.name]), "settings": asdict(settings)})
        vectors[task.name] = _vector(work, task, settings, keys[task.name])
    return Tuned(seed, vectors, keys)


def _vector(work: Work, task: Task, settings: Settings, key: str) -> TaskVector:
    regime = work.settings.regime
    folder = work.folder / "vectors" / f"{regime}-{settings.steps}-seed{settings.seed}"
    path, note = folder / f"{task.name}.tv.safetensors", folder / f"{task.name}.key"
    if path.exists() and note.is_file() and note.read_text("utf-8") == key:
        return TaskVector.open(path)
    work.say(f"  {task.name}: {settings.steps} steps, {regime}, seed {settings.seed}")
    found = tune(
        work.encoder,
        task,
        regime=regime,
        head=work.heads[task.name],
        settings=settings,
        resume=folder / f".{task.name}-{key[:12]}.state",
        progress=_watched(work, task.name),
    )
    note.unlink(missing_ok=True)
    found.vector(work.base).save(path, force=True)
    replace_durably(note, key)
    for state in folder.glob(f".{task.name}-*.state*"):
        state.unlink()
    return TaskVector.open(path)


def _watched(work: Work, task: str) -> Callable[[Step], None]:
    limit, started = work.settings.time_limit, time.monotonic()

    def progress(step: Step) -> None:
        work.progress(task, step)
        if limit is not None and step.step < step.steps and time.monotonic() - started > limit:
            raise ParameterError(
                f"the fine-tuning of '{task}' took longer than {limit:g} seconds, at step {step.step} of {step.steps}.",
                "run the same command again: it goes on from the last state that was kept; or allow more time.",
            )

    return progress


def plain_of(settings: Settings) -> dict[str, Any]:
    """The settings as a table, but for the seed."""
    return {name: value for name, value in asdict(settings).items() if name != "seed"}
