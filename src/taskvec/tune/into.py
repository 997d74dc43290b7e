"""A fine-tuning into a folder that appears when it is complete; a stopped one goes on where it was."""

import shutil
from collections.abc import Callable
from pathlib import Path

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.durable import writing
from taskvec.checkpoint.staging import partial_of
from taskvec.errors import DestinationError
from taskvec.suites import Head, OpenedEncoder, Task
from taskvec.tune.loop import Step, Tuned, tune
from taskvec.tune.regime import regime_of
from taskvec.tune.settings import Settings

BASE = "base"
"""The folder of the base in what a regime of pairs writes."""


def tune_into(
    output: Path,
    model: OpenedEncoder,
    task: Task,
    *,
    regime: str = "standard",
    head: Head | None = None,
    settings: Settings | None = None,
    progress: Callable[[Step], None] | None = None,
    seconds: float | None = None,
    force: bool = False,
) -> Tuned:
    """Fine-tunes a copy of `model` and writes it to `output`; arguments as in `tune`.

    Most regimes write an ordinary model folder. Regimes whose result is a base and a task vector (tangent, lora,
    l_lora) write a folder with `base/` and `TASK.tv.safetensors`. Until then `.OUTPUT.partial` holds the state, from
    which an interrupted call goes on: it is kept when a loss is not finite, too.

    Raises:
        DestinationError: `output` exists and `force` does not replace it, or the disk is full.
        ParameterError: the state is that of another fine-tuning.
        UnknownName, NonFiniteError, TimeLimit: as in `tune`.
    """
    check_output(output, force=force)
    pair, partial = regime_of(regime).pair, partial_of(output)
    with writing(output):
        found = tune(
            model,
            task,
            regime=regime,
            head=head,
            settings=settings,
            progress=progress,
            resume=partial / "state",
            seconds=seconds,
        )
        made = partial / "out"
        shutil.rmtree(made, ignore_errors=True)
        if pair:
            shutil.copytree(model.folder, made / BASE, symlinks=False)
            found.vector(Checkpoint.open(made / BASE)).save(made / f"{task.name}.tv.safetensors")
        else:
            found.save(made)
        if output.exists():
            output.rename(partial / "replaced")
        made.rename(output)
        shutil.rmtree(partial)
    return found


def check_output(output: Path, *, force: bool) -> None:
    """Refuse a folder that exists, or whose parent does not.

    Raises:
        DestinationError: see above.
    """
    if output.exists() and not (force and output.is_dir()):
        raise DestinationError(f"'{output}' exists already.", "choose another folder, or replace one with --force.")
    if not output.absolute().parent.is_dir():
        raise DestinationError(f"the folder '{output.parent}' does not exist.", "create it, or choose another one.")
