"""`taskvec bench`: a suite end to end, from fine-tuning to merges, codecs, negation and disentanglement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskvec.cli import _options as options
from taskvec.cli import _suites as suites

if TYPE_CHECKING:
    from taskvec.bench import Bench

app = typer.Typer(add_completion=False)
_TITLES = {"single": "one model a task", "addition": "merged", "compression": "compressed"}


@app.command()
def bench(
    name: suites.Name,
    *,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FOLDER", help="Where everything goes (bench-SUITE); a rerun goes on."),
    ] = None,
    data: suites.Data = None,
    base: suites.Base = None,
    regime: suites.Regime = "standard",
    seeds: Annotated[str, typer.Option("--seeds", metavar="N,N", help="One fine-tuning of all tasks each.")] = "0",
    steps: Annotated[int, typer.Option("--steps", min=1, metavar="N", help="Fine-tuning steps a task.")] = 150,
    learning_rate: suites.LearningRate = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Test texts a task, at most.")] = 1000,
    protocols: Annotated[
        str | None, typer.Option("--protocols", metavar="NAME,NAME", help="Some of those above (all).")
    ] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="NAME,NAME", help="Merge methods (all that merge vectors).")
    ] = None,
    tasks: suites.Tasks = None,
    time_limit: suites.TimeLimit = None,
    quick: Annotated[bool, options.flag("--quick", text="A taste: fewer steps, texts, methods, protocols.")] = False,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune every task of SUITE, merge, compress and negate the task vectors, evaluate; write a JSON and a page.

    What is finished is kept in the folder: after an interruption, run the same command again.

    Protocols, with minutes on one core for text8 (8 tasks, 150 steps, 1000 test texts; fine-tuning takes 15):

    \b
    addition               1 a method         every merge, at its best scale and at 1
    compression            1 a codec          each task from its stored vector
    negation               4                  each task forgotten, a control kept
    disentanglement        1 a map            how far two vectors disturb each other
    analysis               1                  of the vectors alone, without data
    negation_baselines     10                 scale 1, random vectors, first order
    to_first_order         6                  the model linear in the vectors
    nonlinear_advantage    3                  what that loses, task by task
    disentanglement_pairs  1                  of all pairs of tasks
    bases                  3 a basis          half and a quarter as many vectors
    arrival                3 a method          tasks that come one by one
    few_shot               4                  a task held out, few examples of it
    local_energy           3 a pair           of the tangent kernel
    analogy                10                 4 more fine-tunings (docs8 alone)
    gradient_ascent        15                 a fine-tuning more a task

    --quick takes the first five.
    """  # noqa: D301  # click needs the character itself
    from taskvec.bench import BenchSettings
    from taskvec.bench import bench as run
    from taskvec.cli._console import show, show_json
    from taskvec.cli._progress import Working

    suites.set_threads(threads)
    settings = BenchSettings(
        regime=regime,
        seeds=suites.numbers(seeds),
        steps=steps,
        learning_rate=learning_rate,
        limit=limit,
        protocols=tuple(suites.listed(protocols)) or None,
        methods=tuple(suites.listed(methods)) or None,
        time_limit=time_limit,
    )
    suite = suites.opened(name, data=data, base=base, tasks=tasks)
    folder = output or Path(f"bench-{suite.name}")
    silent, what = quiet or as_json, f"'{folder / 'results.json'}'"
    with Working("fine-tuning", what, kept=folder, quiet=silent, unit="steps") as working:
        found = run(
            suite,
            folder,
            settings.quick() if quick else settings,
            say=suites.telling(working),
            progress=suites.steps(working),
        )
    if as_json:
        show_json(found.plain())
    elif not quiet:
        show("", *_tables(found), "", *_files(found))


def _files(found: Bench) -> list[str]:
    pages = [f"report: {found.report}"] if found.report.exists() else []
    return [f"results: {found.results}", *pages]


def _tables(found: Bench) -> list[Any]:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import percent

    parts: list[Any] = []
    for protocol, title in _TITLES.items():
        rows = [row for row in found.summary if row["protocol"] == protocol]
        lines = [
            (
                row["name"],
                percent(row["mean"], row["mean_spread"]),
                percent(row["normalized"], row["normalized_spread"]) if "normalized" in row else "",
            )
            for row in rows
        ]
        parts += [tables.columns((title, "accuracy", "normalized"), lines, left=1), ""]
    skipped = [(name, reason) for run in found.runs[:1] for name, reason in run["skipped"].items()]
    return [*parts, *([tables.columns(("left out", "because"), skipped, left=2)] if skipped else [])]
