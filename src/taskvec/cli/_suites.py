"""What the verbs that work on suites share: options, the suite they mean, and how fine-tuning is shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from taskvec.cli._progress import Working
    from taskvec.suites import Suite
    from taskvec.tune import Step

_RECENT = 10  # batches over which the accuracy that is shown is averaged

Name = Annotated[str, typer.Argument(metavar="SUITE", help="docs8, text8, text12, or a YAML file.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", envvar="TASKVEC_DATA", help="Tables: TASK/{train,val,test}.parquet."),
]
Base = Annotated[str | None, typer.Option("--base", metavar="MODEL", help="Another base than the suite's.")]
Regime = Annotated[
    str, typer.Option("--regime", metavar="NAME", help="standard, tangent, attention_only, lora, l_lora.")
]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", metavar="RATE", help="Peak (the suite's own at this regime).")
]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", metavar="SECONDS", help="For fine-tuning one task; what is done by then is kept."),
]
Tasks = Annotated[str | None, typer.Option("--tasks", metavar="NAME,NAME", help="Some of the tasks (all).")]


def opened(name: str, *, data: Path | None, base: str | None, tasks: str | None = None) -> Suite:
    """The suite that the options mean, with these tasks alone.

    Raises:
        UnknownName: no such suite or task. FormatError: its data are not there.
    """
    from taskvec.suites import suite_named

    return suite_named(name, data=data, base=base, tasks=listed(tasks) or None)


def listed(text: str | None) -> list[str]:
    """The names in "a,b"."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def numbers(text: str) -> tuple[int, ...]:
    """The numbers in "0,1".

    Raises:
        typer.BadParameter: something else.
    """
    try:
        return tuple(int(each) for each in listed(text))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list of numbers, e.g. 0,1.", param_hint="--seeds") from None


def set_threads(threads: int | None) -> None:
    """Let torch use so many threads; None leaves it alone."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def telling(working: Working) -> Callable[[str], None]:
    """Prints each line, and lets the bar say what is being computed."""

    def tell(line: str) -> None:
        working.tell(line)
        working(line.strip(), 0, 1)

    return tell


def steps(working: Working) -> Callable[[str, Step], None]:
    """Shows each step of a fine-tuning, with the accuracy of the last batches."""
    recent: deque[float] = deque(maxlen=_RECENT)

    def progress(task: str, step: Step) -> None:
        if step.step == 1:
            recent.clear()
        recent.append(step.accuracy)
        working(task, step.step, step.steps, detail=f"accuracy {sum(recent) / len(recent):.0%}")

    return progress
