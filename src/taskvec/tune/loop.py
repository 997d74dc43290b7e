"""The loop that every regime shares: from an encoder and a task to a tuned encoder."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

import taskvec.tune.regimes  # noqa: F401  # registers them
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import NonFiniteError, TimeLimit
from taskvec.suites import Encoder, Head, Split, Task, class_name_head
from taskvec.suites.head import DEFAULT_TEMPERATURE, check_head
from taskvec.tune.regime import Run, regime_of
from taskvec.tune.saved import Saved, key_of
from taskvec.tune.settings import Settings, learning_rate_at
from taskvec.vector import TaskVector


@final
@dataclass(frozen=True, slots=True)
class Step:
    """What the progress callback gets after each step (1 … steps); accuracy is that of the batch before the step."""

    step: int
    steps: int
    loss: float
    accuracy: float
    learning_rate: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A fine-tuned encoder and how it was made; `losses` has one entry a step.

    `delta` is the task vector, name → float32 tensor, and the encoder's weights are the base's plus it. In a `linear`
    regime it was trained for the model to first order: see `LinearizedEncoder`.
    """

    encoder: Encoder
    delta: Mapping[str, Tensor]
    task: str
    regime: str
    settings: Settings
    losses: tuple[float, ...]

    def to_json(self) -> str:
        """Task, regime, settings and losses as a JSON object."""
        fields = {"task": self.task, "regime": self.regime, "settings": asdict(self.settings), "losses": self.losses}
        return json.dumps(fields, indent=2)

    def save(self, folder: str | Path) -> Path:
        """Writes the tuned model as an ordinary folder; see the encoder's `save`."""
        return self.encoder.save(folder)

    def vector(self, base: Checkpoint | None = None) -> TaskVector:
        """The task vector, by the names of the model's files; with the base it remembers what it was cut from."""
        stored = {self.encoder.aliases.get(name, name): delta for name, delta in self.delta.items()}
        return TaskVector.from_tensors(stored, base=base)


def tune(
    model: Encoder,
    task: Task,
    *,
    regime: str = "standard",
    head: Head | None = None,
    settings: Settings | None = None,
    progress: Callable[[Step], None] | None = None,
    resume: str | Path | None = None,
    save_every: int = 25,
    seconds: float | None = None,
) -> Tuned:
    """Fine-tunes a copy of `model` on the task's training split; `model` itself does not change.

    The loss is the cross-entropy of the labels under `head`, which stays frozen. Equal inputs, settings and number
    of threads give equal weights; the global random state is neither read nor changed.

    Args:
        model: the base encoder.
        task: its training split is used, nothing else.
        regime: a name of `regime_names()`.
        head: the frozen head; None embeds the task's class phrases with `model` as it is now, at temperature 20.
        settings: the recipe; None for the defaults.
        progress: called after every step.
        resume: a file that gets the state every `save_every` steps, as soon as the next loss says that it is good, and
            at the end; a later call with the same arguments goes on from there and gives the same weights (at equal
            number of threads) as one call does.
        save_every: steps between two writings of that file.
        seconds: of this call; where they end before the steps do, the state is written and the call refuses.

    Raises:
        UnknownName: there is no such regime.
        ParameterError: the training split is empty, or `resume` is the state of another run.
        SchemaError: the head has not the task's classes.
        NonFiniteError: the loss or the gradient is not finite; the message names the step, and `resume` keeps the
            last state that was written, whose loss was finite.
        TimeLimit: `seconds` are over; the message says where the state is.
    """
    started, settings = time.monotonic(), Settings() if settings is None else settings
    chosen = regime_of(regime)
    split = task.split("train")
    head = class_name_head(model, task, temperature=DEFAULT_TEMPERATURE) if head is None else head
    check_head(head, task)
    run = chosen.prepare(model.duplicate(), settings)
    autocast = chosen.autocast if settings.autocast is None else settings.autocast
    optimizer = torch.optim.AdamW(list(run.parameters.values()), weight_decay=settings.weight_decay)
    saved = None if resume is None else Saved(Path(resume), key_of(model, head, split, regime, settings))
    losses = [] if saved is None else saved.load(run, optimizer)

    def keep(every: int = 1) -> None:
        if saved is not None and losses and len(losses) % every == 0:
            saved.write(run, optimizer, losses)

    loop = _Loop(
        run=run,
        model=model,
        head=head,
        task=task,
        settings=settings,
        optimizer=optimizer,
        autocast=autocast,
        keep=lambda: keep(save_every),
    )
    for step in loop.steps(losses):
        if progress is not None:
            progress(step)
        if seconds is not None and step.step < settings.steps and time.monotonic() - started > seconds:
            keep()
            raise _out_of_time(step, task, seconds, resume)
    keep()
    return Tuned(
        delta=run.delta(),
        encoder=run.finish(),
        task=task.name,
        regime=regime,
        settings=settings,
        losses=tuple(losses),
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    """What every step needs."""

    run: Run
    model: Encoder
    head: Head
    task: Task
    settings: Settings
    optimizer: torch.optim.Optimizer
    autocast: bool
    keep: Callable[[], None]

    def steps(self, losses: list[float]) -> Iterator[Step]:
        """The steps that are still to be made; appends to `losses`, whose length says how many were."""
        split = self.task.split("train")
        for number, positions in enumerate(_samples(split, self.settings), start=1):
            if number <= len(losses):
                continue
            rate = learning_rate_at(number, self.settings)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            logits = self._logits([split.texts[i] for i in positions])
            labels = torch.tensor([split.labels[i] for i in positions])
            losses.append(self._update(nn.functional.cross_entropy(logits, labels), number))
            accuracy = (logits.argmax(dim=-1) == labels).float().mean().item()
            yield Step(number, self.settings.steps, losses[-1], accuracy, rate)

    def _logits(self, texts: list[str]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            features = self.run.features(self.model.batch(texts))
        return self.head.logits(features.float())

    def _update(self, loss: Tensor, number: int) -> float:
        value, where = loss.item(), f"task '{self.task.name}' at step {number}"
        parameters = list(self.run.parameters.values())
        self.optimizer.zero_grad(set_to_none=True)
        _check_finite(value, "loss", where)
        (-loss if self.settings.ascend else loss).backward()  # type: ignore[no-untyped-call]
        _check_finite(nn.utils.clip_grad_norm_(parameters, self.settings.clip).item(), "gradient", where)
        self.keep()  # the weights before this step gave a finite loss and gradient
        self.optimizer.step()
        return value


def _samples(split: Split, settings: Settings) -> Iterator[list[int]]:
    """Positions of each step's batch: random permutations one after another, so every epoch sees every example."""
    generator = torch.Generator().manual_seed(settings.seed)
    queue: list[int] = []
    for _ in range(settings.steps):
        while len(queue) < settings.batch_size:
            queue += torch.randperm(len(split), generator=generator).tolist()
        yield queue[: settings.batch_size]
        del queue[: settings.batch_size]


def _out_of_time(step: Step, task: Task, seconds: float, resume: str | Path | None) -> TimeLimit:
    kept = "give resume=FILE to keep what was done" if resume is None else f"call again to go on from '{resume}'"
    return TimeLimit(
        f"the fine-tuning of '{task.name}' was at step {step.step} of {step.steps} when its {seconds:g} s were over.",
        f"{kept}, or allow more seconds.",
    )


def _check_finite(value: float, what: str, where: str) -> None:
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the {what} on {where} is {value}.",
            "lower the learning rate, or check the base model for NaN and Inf.",
        )
