"""`taskvec analyze`: norms, cosines, spectra, overlaps and interference of task vectors, as a page and as data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskvec.cli import _options as options
from taskvec.cli import _recipes as flags

if TYPE_CHECKING:
    from taskvec.analyze import Analysis
    from taskvec.checkpoint.layout import Layout
    from taskvec.vector import TaskVector

app = typer.Typer(add_completion=False)

_SHOWN = 6  # pairs of tasks
Vectors = Annotated[
    list[str],
    typer.Argument(
        metavar="VECTOR...",
        help="Task vectors, LoRA adapters, names of --store, or with --base tuned models; as PATH or NAME=PATH.",
    ),
]
Page = Annotated[Path | None, typer.Option("-o", "--output", metavar="REPORT.html", help="Write a page to look at.")]
Data = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the tables as JSON; - prints them.")]
Only = Annotated[str | None, typer.Option("--only", metavar="NAMES", help="E.g. sti,gram (default: all).")]
Merged = Annotated[
    str | None, typer.Option("--merged", metavar="VECTOR", help="What tasks are aligned with (default: their sum).")
]
Fraction = Annotated[
    float | None,
    typer.Option("--density", metavar="FRACTION", help="Singular triplets of each task (default: one part in T)."),
]


@app.command()
def analyze(
    vectors: Vectors,
    *,
    output: Page = None,
    data: Data = None,
    only: Only = None,
    sti: Annotated[bool, options.flag("--sti", text="The same as --only sti.")] = False,
    merged: Merged = None,
    base: flags.Base = None,
    store: flags.Library = None,
    density: Fraction = None,
    settings: flags.Settings = None,
    layout: flags.Layout = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what can be said of task vectors without data: norms, cosines, spectra, overlaps, interference."""
    from taskvec.analyze import analyze as run
    from taskvec.cli._progress import Working
    from taskvec.recipes.sources import Sources

    if sti and only is not None:
        raise typer.BadParameter("--sti and --only exclude each other.", param_hint="--sti")
    _check_outputs(output, data, force=force)
    sources = flags.named_inputs(vectors)
    opened = Sources.open(None, base, store)
    named = {name: opened.vector(name, source) for name, source in sources.items()}
    target = None if merged is None else opened.vector("--merged", merged)
    with Working("analyzing", "the analysis", kept=None, quiet=quiet or _printed(data), last="summing up") as working:
        found = run(
            named,
            "sti" if sti else only,
            _layout(layout, named),
            merged=target,
            density=density,
            progress=working,
            **options.parameters(settings),
        )
    _write(found, output, data)
    if not quiet and not _printed(data):
        _show(found, output, data)


def _printed(data: Path | None) -> bool:
    return data == Path("-")


def _check_outputs(output: Path | None, data: Path | None, *, force: bool) -> None:
    from taskvec.errors import DestinationError

    for path in (output, None if _printed(data) else data):
        if path is not None and path.exists() and (path.is_dir() or not force):
            raise DestinationError(f"'{path}' exists.", "choose another name, or replace a file with --force.")
        if path is not None and not path.absolute().parent.is_dir():
            raise DestinationError(f"there is no folder '{path.parent}' to write '{path.name}' into.", "make it first.")


def _layout(path: str | None, named: dict[str, TaskVector]) -> Layout | None:
    from taskvec.checkpoint.layout import Layout

    specs = {name: spec for vector in reversed(named.values()) for name, spec in vector.specs.items()}
    return None if path is None else Layout.of(specs, path)


def _write(found: Analysis, output: Path | None, data: Path | None) -> None:
    from taskvec.checkpoint.durable import writing

    if output is not None:
        from taskvec.report import analysis_html

        with writing(output):
            output.write_text(analysis_html(found), "utf-8")
    if _printed(data):
        typer.echo(found.to_json())
    elif data is not None:
        found.save(data)


def _show(found: Analysis, output: Path | None, data: Path | None) -> None:
    from taskvec.cli import _tables as tables
    from taskvec.cli._console import show

    parts: list[Any] = [tables.heading("analyzed", ", ".join(found.tasks)), tables.rows(_totals(found))]
    if found.tables.get("gram"):
        parts += ["", tables.columns(("most alike", "", "cosine"), _cosines(found), left=2)]
    show(*parts, *(f"wrote {path}" for path in (output, data) if path is not None))


def _totals(found: Analysis) -> list[tuple[str, str]]:
    from taskvec.cli._console import counted

    totals = [("tensors", f"{len(found['tensors']):,}")]
    if "norms" in found.tables:
        totals.append(("norms", ", ".join(f"{row['task']} {row['norm']:.4g}" for row in found["norms"])))
    if "sti" in found.tables:
        values = [row["value"] for row in found["sti"] if row["rank"]]
        over = counted(len(values), "matrix", "matrices")
        totals.append(("STI", f"{math.fsum(values):.4g} over {over}, {found.settings['norm']} norm"))
    return totals


def _cosines(found: Analysis) -> list[tuple[str, str, str]]:
    """The pairs that are most alike, or most opposed."""
    rows = sorted((r for r in found["gram"] if r["cosine"] is not None), key=lambda r: -abs(r["cosine"]))
    return [(r["task"], r["other"], f"{r['cosine']:.3f}") for r in rows[:_SHOWN]]
