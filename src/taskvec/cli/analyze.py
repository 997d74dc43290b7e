"""`taskvec analyze`: norms, cosines, spectra, overlaps and interference of task vectors, as a page and as data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskvec.cli import _options as options
from taskvec.cli import _recipes as flags

if TYPE_CHECKING:
    from taskvec.analyze import Analysis
    from taskvec.checkpoint.layout import Layout
    from taskvec.checkpoint.progress import Progress
    from taskvec.vector import TaskVector

app = typer.Typer(add_completion=False)

Vectors = Annotated[
    list[str],
    typer.Argument(
        metavar="VECTOR...",
        help="Task vectors, LoRA adapters, names of --store, or with --base tuned models; as PATH or NAME=PATH.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="PATH", help="Write a report: a page (.html) or the tables (.json)."),
]
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
    output: Report = None,
    only: Only = None,
    sti: Annotated[bool, options.flag("--sti", text="The same as --only sti.")] = False,
    merged: Merged = None,
    base: flags.Base = None,
    store: flags.Library = None,
    density: Fraction = None,
    certificates: Annotated[
        bool, options.flag("--certificates", text="Also say what sums of the tasks can lose, and bases of every size.")
    ] = False,
    smoothness: Annotated[
        float | None,
        typer.Option("--smoothness", metavar="L", help="With --certificates: a curvature, for bounds on the loss."),
    ] = None,
    settings: flags.Settings = None,
    layout: flags.Layout = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what can be said of task vectors without data: norms, cosines, spectra, overlaps, interference."""
    from taskvec.analyze import analyze as run
    from taskvec.cli._progress import Working
    from taskvec.recipes.sources import Sources

    if smoothness is not None and not certificates:
        raise typer.BadParameter("it needs --certificates.", param_hint="--smoothness")
    if sti and only is not None:
        raise typer.BadParameter("--sti and --only exclude each other.", param_hint="--sti")
    _check_output(output, force=force)
    sources = flags.named_inputs(vectors)
    opened = Sources.open(None, base, store)
    named = {name: opened.vector(name, source) for name, source in sources.items()}
    target = None if merged is None else opened.vector("--merged", merged)
    with Working("analyzing", "the analysis", kept=None, quiet=quiet or as_json) as working:
        found = run(
            named,
            "sti" if sti else only,
            _layout(layout, named),
            merged=target,
            density=density,
            progress=working,
            **options.parameters(settings),
        )
        certified = _certified(named, smoothness, working) if certificates else None
    if certified is not None:
        found = _with_tables(found, certified)
    if output is not None:
        _write(found, output)
    _tell(found, output, certified, quiet=quiet, as_json=as_json)


def _certified(named: dict[str, TaskVector], smoothness: float | None, progress: Progress) -> dict[str, Any]:
    from taskvec.basis import certificate
    from taskvec.gramian import Gram

    return certificate(Gram.of(named, progress=progress), smoothness=smoothness).plain()


def _with_tables(found: Analysis, certified: dict[str, Any]) -> Analysis:
    """The analysis with the tables of a certificate."""
    best = certified["optimal"]
    optimal = [
        {"name": name, **{kind: best[kind]["coefficients"][name] for kind in ("average", "worst")}}
        for name in found.tasks
    ]
    tables = {"certificates": certified["tasks"], "optimal": tuple(optimal), "sizes": certified["sizes"]}
    meanings = {
        "certificates": "q is the squared distance from the average of all tasks to each; a loss bound is half the "
        "smoothness times q: " + "; ".join(certified["notes"]) + ".",
        "optimal": "Coefficients that add up to 1, with the least average and the least worst q.",
        "sizes": "What the best basis of each size loses: of the squared norms, of the worst and of the median task.",
    }
    return replace(found, tables={**found.tables, **tables}, meanings={**found.meanings, **meanings})


def _check_output(output: Path | None, *, force: bool) -> None:
    from taskvec.errors import DestinationError

    if output is None:
        return
    if output.suffix not in (".html", ".json"):
        raise DestinationError(
            f"'{output}' is neither a page nor data.", "end the name in .html for a page to look at, in .json for data."
        )
    if output.exists() and (output.is_dir() or not force):
        raise DestinationError(f"'{output}' exists.", "choose another name, or replace a file with --force.")
    if not output.absolute().parent.is_dir():
        raise DestinationError(f"there is no folder '{output.parent}' to write '{output.name}' into.", "make it first.")


def _layout(path: str | None, named: dict[str, TaskVector]) -> Layout | None:
    from taskvec.checkpoint.layout import Layout

    specs = {name: spec for vector in reversed(named.values()) for name, spec in vector.specs.items()}
    return None if path is None else Layout.of(specs, path)


def _write(found: Analysis, output: Path) -> None:
    from taskvec.checkpoint.durable import replace_durably, writing
    from taskvec.report import analysis_page

    if output.suffix == ".json":
        found.save(output)
        return
    with writing(output):
        replace_durably(output, analysis_page(found))


def _tell(
    found: Analysis, output: Path | None, certified: dict[str, Any] | None, *, quiet: bool, as_json: bool
) -> None:
    from taskvec.cli._analysis_tables import analysis_parts
    from taskvec.cli._basis_tables import certificate_parts
    from taskvec.cli._console import show

    if as_json:
        typer.echo(found.to_json())
    elif not quiet:
        extra = [] if certified is None else certificate_parts(certified)
        show(*analysis_parts(found), *extra, *([] if output is None else ["", f"wrote {output}"]))
