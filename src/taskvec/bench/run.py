"""A suite from fine-tuning to the report: every protocol, every seed; what is finished is not computed again."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from taskvec.bench.given import Given
from taskvec.bench.protocols import chosen
from taskvec.bench.settings import BenchSettings
from taskvec.bench.singles import single, zero_shot
from taskvec.bench.tuned import Tuned, tuned
from taskvec.bench.work import Progress, Say, Work
from taskvec.checkpoint.durable import replace_durably, try_lock
from taskvec.errors import DestinationError, TaskVecError, TimeLimit
from taskvec.evaluate import Record
from taskvec.report import bench_page
from taskvec.suites import Suite
from taskvec.tune import Step


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Bench(Record):
    """What a run found: `suite` says on what, `runs` holds one record a seed, `summary` mean and spread over seeds."""

    suite: Mapping[str, Any]
    runs: tuple[Mapping[str, Any], ...]
    summary: tuple[Mapping[str, Any], ...]
    folder: Path

    def plain(self) -> dict[str, Any]:
        """Suite, runs and summary."""
        return {"suite": dict(self.suite), "runs": list(self.runs), "summary": list(self.summary)}

    @property
    def results(self) -> Path:
        """Where `to_json()` was written."""
        return self.folder / "results.json"

    @property
    def report(self) -> Path:
        """Where the page is that a browser shows."""
        return self.folder / "report.html"


def bench(
    suite: Suite,
    folder: str | Path,
    settings: BenchSettings | None = None,
    *,
    say: Say = print,
    progress: Progress | None = None,
) -> Bench:
    """Fine-tune every task, merge, compress, negate, map, analyze; write results.json and report.html into `folder`.

    Args:
        suite: base model and tasks.
        folder: gets the task vectors, the finished pieces and the results; a second run goes on from there.
        settings: what is tried; default: everything.
        say: called with a line when something is computed.
        progress: called with the task and each step of its fine-tuning.

    Raises:
        UnknownName: no such protocol, or no such target. TaskVecError: something refused; what is done stays.
        DestinationError: another run is working in `folder`, or it is a file.
    """
    settings = settings or BenchSettings()
    chosen(settings.protocols)
    for target in settings.targets or ():
        suite.task(target)
    with alone_in(Path(folder)):
        work = Work.open(suite, Path(folder), settings, say=say, progress=progress or _unseen)
        runs = tuple(_run(work, seed) for seed in settings.seeds)
        found = Bench(suite=about(work), runs=runs, summary=summary_of(runs), folder=Path(folder))
        replace_durably(found.results, found.to_json() + "\n")
        replace_durably(found.report, bench_page(found.plain()))
    return found


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else may work in the folder, which is made where it is not there.

    Raises:
        DestinationError: somebody does, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DestinationError(f"'{folder}' is not a folder.", "choose another one.")
    lock = try_lock(folder / ".lock")
    if lock is None:
        raise DestinationError(f"another run is working in '{folder}'.", "wait for it to finish, or stop it.")
    try:
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()


def _unseen(task: str, step: Step) -> None:
    """Nobody looks."""


def _run(work: Work, seed: int) -> dict[str, Any]:
    work.say(f"fine-tuning, seed {seed}")
    vectors = tuned(work, seed)
    work.say("evaluating")
    return record_of(work, vectors)


def record_of(work: Work, vectors: Tuned) -> dict[str, Any]:
    """The protocols that the settings choose, for the vectors of one seed, as plain data.

    A protocol that these tasks or vectors do not allow is left out, with the reason.
    """
    before = zero_shot(work)
    val, test = (single(work, vectors, split) for split in ("val", "test"))
    given = Given(work=work, tuned=vectors, val=val, test=test)
    record = {"seed": vectors.seed, "zero_shot": before, "tuned": test.plain()}
    for name, protocol in chosen(work.settings.protocols).items():
        try:
            record[name] = protocol(given)
        except (TimeLimit, DestinationError):
            raise
        except TaskVecError as error:
            given.leave_out(name.replace("_", " "), error.fact)
    plain: dict[str, Any] = json.loads(json.dumps({**record, "skipped": given.skipped}))  # lists, as in the file
    return plain


def about(work: Work) -> dict[str, Any]:
    """What the numbers depend on; no path and no time."""
    settings, suite = work.settings, work.suite
    tuning = asdict(settings.tuning(settings.seeds[0], suite.learning_rates))
    return {
        "name": suite.name,
        "base": work.base.fingerprint(),
        "regime": settings.regime,
        "linear": work.linear,
        "seeds": list(settings.seeds),
        "tasks": [_task(work, name) for name in suite.names()],
        "controls": [task.name for task in suite.controls],
        "versions": dict(suite.versions),
        "tuning": {name: value for name, value in tuning.items() if name != "seed"},
        "scales": list(settings.scales),
        "refine": settings.refine,
        **({"scales_of": {k: list(v) for k, v in settings.scales_of.items()}} if settings.scales_of else {}),
        "negation_scales": list(settings.negation_scales),
        "beyond": list(settings.beyond),
        "limit": settings.limit,
        "validation": settings.chosen_on,
        "map_limit": settings.map_limit,
    }


def _task(work: Work, name: str) -> dict[str, Any]:
    task = work.suite.task(name)
    sizes = {split: len(rows) for split, rows in task.splits.items()}
    return {"name": name, "classes": len(task.classes), "version": task.version, "digest": work.digests[name], **sizes}


def summary_of(runs: tuple[Mapping[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """Mean over seeds and its spread, the sample standard deviation (None for one seed), of each row of a table."""
    found = []
    for what in ("addition", "compression"):
        tables = [{row["name"]: row for row in run.get(what, {}).get(what, ())} for run in runs]
        for name in [n for n in tables[0] if all(n in table for table in tables)]:
            rows = [table[name] for table in tables]
            found.append({"protocol": what, "name": name, **_spread(rows, "mean"), **_spread(rows, "normalized")})
    for what in ("zero_shot", "tuned"):
        found.append({"protocol": "single", "name": what, **_spread([run[what] for run in runs], "mean")})
    return tuple(found)


def _spread(rows: list[Mapping[str, Any]], column: str) -> dict[str, float | None]:
    values = [float(row[column]) for row in rows]
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {column: statistics.fmean(values), f"{column}_spread": spread}
