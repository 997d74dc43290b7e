"""One fine-tuning a task and seed, kept as a task vector; an interrupted one goes on where it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from taskvec.bench.memo import key_of
from taskvec.bench.work import Work
from taskvec.checkpoint.durable import replace_durably
from taskvec.suites import Task
from taskvec.tune import Settings, tune
from taskvec.vector import TaskVector

_LATER = {"derivative": "forward", "ascend": False}


@final
@dataclass(frozen=True, slots=True)
class Tuned:
    """The task vectors of one seed; `keys` say what each depends on."""

    seed: int
    vectors: Mapping[str, TaskVector]
    keys: Mapping[str, str]


def tuned(work: Work, seed: int, tasks: Iterable[str] | None = None, *, ascend: bool = False) -> Tuned:
    """Fine-tune every task that was not fine-tuned with the same data, base, settings and seed before.

    Args:
        work: the suite as it was opened.
        seed: of the fine-tuning.
        tasks: their names, those of controls and analogies too; None for the suite's own.
        ascend: climb the loss.

    Raises:
        TimeLimit: one took longer than the time limit; what was done by then is kept.
    """
    settings = replace(work.settings.tuning(seed, work.suite.learning_rates), ascend=ascend)
    vectors, keys = {}, {}
    for task in map(work.everything.task, work.suite.names() if tasks is None else tasks):
        keys[task.name] = key_of({**work.about([task.name]), "settings": known_settings(settings)})
        vectors[task.name] = _vector(work, task, settings, keys[task.name])
    return Tuned(seed, vectors, keys)


def _vector(work: Work, task: Task, settings: Settings, key: str) -> TaskVector:
    regime, climbs = work.settings.regime, "-ascent" if settings.ascend else ""
    folder = work.folder / "vectors" / f"{regime}-{settings.steps}-seed{settings.seed}{climbs}"
    path, note = folder / f"{task.name}.tv.safetensors", folder / f"{task.name}.key"
    if path.exists() and note.is_file() and note.read_text("utf-8") == key:
        return TaskVector.open(path)
    work.say(f"  {task.name}: {settings.steps} steps, {regime}{climbs}, seed {settings.seed}")
    found = tune(
        work.encoder,
        task,
        regime=regime,
        head=work.heads[task.name],
        settings=settings,
        resume=folder / f".{task.name}-{key[:12]}.state",
        seconds=work.settings.time_limit,
        progress=lambda step: work.progress(task.name, step),
    )
    note.unlink(missing_ok=True)
    found.vector(work.base).save(path, force=True)
    replace_durably(note, key)
    for state in folder.glob(f".{task.name}-*.state*"):
        state.unlink()
    return TaskVector.open(path)


def known_settings(settings: Settings) -> dict[str, Any]:
    """The settings as what a vector depends on; a field that came later is left out where it says "as before"."""
    return {name: value for name, value in asdict(settings).items() if _LATER.get(name, ...) != value}
