"""`taskvec tune`: one task of a suite, fine-tuned in a regime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskvec.cli import _options as options
from taskvec.cli import _suites as suites

if TYPE_CHECKING:
    from taskvec.tune import Tuned

app = typer.Typer(add_completion=False)
_LAST = 10  # steps over which the last loss is averaged


@app.command()
def tune(
    name: suites.Name,
    task: Annotated[str, typer.Argument(metavar="TASK", help="One of its tasks.")],
    *,
    output: options.Output,
    regime: suites.Regime = "standard",
    data: suites.Data = None,
    base: suites.Base = None,
    steps: Annotated[int, typer.Option("--steps", min=1, metavar="N", help="Fine-tuning steps.")] = 150,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Texts a step.")] = 32,
    learning_rate: suites.LearningRate = None,
    rank: Annotated[int, typer.Option("--rank", min=1, metavar="N", help="Of adapters.")] = 16,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Order of texts, start of adapters.")] = 0,
    time_limit: suites.TimeLimit = None,
    threads: options.Threads = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune the base of SUITE on TASK and write a model, or a base and a task vector (tangent, lora, l_lora).

    Interrupted, the same command goes on where it was and writes the same weights.
    """
    from taskvec.cli._console import show, show_json
    from taskvec.cli._progress import Working, partial_of
    from taskvec.suites import encoder_of, heads_of
    from taskvec.tune import Settings, tune_into
    from taskvec.tune.into import check_output

    suites.set_threads(threads)
    check_output(output, force=force)
    suite = suites.opened(name, data=data, base=base, tasks=task)
    own = suite.learning_rates.get(regime, Settings().learning_rate)
    rate = own if learning_rate is None else learning_rate
    settings = Settings(steps=steps, batch_size=batch_size, learning_rate=rate, rank=rank, seed=seed)
    encoder = encoder_of(suite)
    head = heads_of(suite, base=encoder)[task]
    kept, silent = partial_of(output), quiet or as_json
    with Working("fine-tuning", f"'{output}'", kept=kept, quiet=silent, unit="steps") as working:
        shown = suites.steps(working)
        found = tune_into(
            output,
            encoder,
            suite.task(task),
            regime=regime,
            head=head,
            settings=settings,
            progress=lambda step: shown(task, step),
            seconds=time_limit,
            force=force,
        )
    if as_json:
        show_json(json.loads(found.to_json()))
    elif not quiet:
        show(*_parts(found, output))


def _parts(found: Tuned, output: Path) -> list[Any]:
    from taskvec.cli import _tables as tables
    from taskvec.tune import regime_of

    settings, last = found.settings, found.losses[-_LAST:]
    pair = regime_of(found.regime).pair
    facts = [
        ("task", found.task),
        ("regime", found.regime),
        ("steps", f"{settings.steps} of {settings.batch_size} texts, learning rate {settings.learning_rate:g}"),
        ("loss", f"{found.losses[0]:.3f} at first, {sum(last) / len(last):.3f} over the last {len(last)} steps"),
        ("base", str(output / "base") if pair else None),
        ("vector", str(output / f"{found.task}.tv.safetensors") if pair else None),
    ]
    return [tables.heading("tuned", str(output)), tables.rows(facts)]
