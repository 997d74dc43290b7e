"""`taskvec eval`: the scores of a model, or of a base moved by task vectors, on the tasks of a suite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskvec.cli import _options as options
from taskvec.cli import _suites as suites
from taskvec.cli._expression_argument import ExpressionCommand

if TYPE_CHECKING:
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.evaluate import Prepared, Scores
    from taskvec.suites import OpenedEncoder
    from taskvec.vector import TaskVector

app = typer.Typer(add_completion=False)


@app.command("eval", cls=ExpressionCommand)
def evaluate(
    text: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model, a task vector, a LoRA adapter, or an expression that moves the base: '0.4*(math + code)'.",
        ),
    ],
    *,
    name: Annotated[str, typer.Option("--suite", metavar="SUITE", help="docs8, text8 or text12.")],
    data: suites.Data = None,
    base: suites.Base = None,
    tasks: suites.Tasks = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="train, val or test.")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Texts a task (all).")] = None,
    linear: Annotated[
        bool, options.flag("--linear", text="The model to first order in its weights, as tangent trains it.")
    ] = False,
    vectors: Annotated[
        list[str] | None, typer.Option("--vectors", metavar="NAME=PATH", help="What a name means; repeats.")
    ] = None,
    store: Annotated[str | None, typer.Option("--store", metavar="LIBRARY", help="Where other names are.")] = None,
    threads: options.Threads = None,
    force: Annotated[bool, options.flag("--force", text="Subtract tasks that a basis gives back badly, too.")] = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Score MODEL on the tasks of a suite, with standard errors."""
    import json

    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.cli._console import show, show_json
    from taskvec.cli._progress import Working
    from taskvec.evaluate import prepare
    from taskvec.suites import encoder_of, heads_of
    from taskvec.suites.encoder import folder_of

    suites.set_threads(threads)
    suite = suites.opened(name, data=data, base=base, tasks=tasks)
    source = folder_of(suite.base)
    point = Checkpoint.open(source)
    model = _meaning(text.strip(), point, options.named("--vectors", vectors), store, force=force)
    encoder = encoder_of(suite, source)
    with Working("evaluating", "the scores", kept=None, quiet=quiet or as_json):
        inputs = prepare(encoder, suite, split=split, limit=limit, heads=heads_of(suite, base=encoder))
        found = _scores(model, point, encoder, inputs, linear=linear)
    if as_json:
        show_json(json.loads(found.to_json()))
    elif not quiet:
        show(*_parts(text.strip(), found))


def _meaning(
    text: str, base: Checkpoint, paths: Mapping[str, str], store: str | None, *, force: bool
) -> Checkpoint | TaskVector:
    """A model stays a point; a vector, an adapter and an expression are displacements from the base."""
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.checkpoint.kinds import what_is
    from taskvec.cli._vector_argument import Names, vector_of
    from taskvec.expression import evaluate, parse

    if paths or store is not None or "`" in text or "*" in text:
        return evaluate(parse(text), Names.of(base, paths, store), force=force)
    kind, _ = what_is(text)
    return Checkpoint.open(text) if kind == "checkpoint" else vector_of(text, base)


def _scores(
    model: Checkpoint | TaskVector, base: Checkpoint, encoder: OpenedEncoder, inputs: Prepared, *, linear: bool
) -> Scores:
    from taskvec.checkpoint.checkpoint import Checkpoint
    from taskvec.evaluate import deltas_of, line, score

    if not linear:
        point = model if isinstance(model, Checkpoint) else base + model
        return score(encoder.with_weights(point), inputs)
    vector = model - base if isinstance(model, Checkpoint) else model
    with line(encoder, inputs, deltas_of(encoder, vector), regime="linear", linear=True) as at:
        return at(1.0)


def _parts(text: str, found: Scores) -> list[Any]:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import percent

    lines = [(row.task, percent(row.value, row.stderr), f"{row.n:,}") for row in found.rows]
    lines.append(("mean", percent(found.mean, found.mean_stderr), f"{sum(row.n for row in found.rows):,}"))
    table = tables.columns((f"{found.suite}, {found.split}", "accuracy", "texts"), lines, rule=len(lines) - 1)
    return [tables.heading("scores", text), table]
