"""What the demonstration found: one table, the sizes, and the Markdown report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from taskvec.checkpoint.durable import replace_durably
from taskvec.evaluate import Scores
from taskvec.report import bench_page

_EXPLAIN = """
Each row is one model, or one for each task (the first three); each column a task's test accuracy in percent, ± one
standard error.

- **zero-shot**: the base model, with class phrases as the head.
- **fine-tuned**: each task's own model on its own task. **int8**: the same, from the task vector with 8 bits an entry.
- **{methods}**: one model for all tasks, base + scale × the merge of the {count} vectors, with each method's default
  parameters. The scale (1 where none is given) was chosen on validation texts. The model of task_arithmetic was read
  back from the folder that was written.
- **−{forget:g} × {target}**: base − {forget:g} × the vector of {target}: that task is forgotten, while the control
  {control} keeps at least 95 % of its validation accuracy.
"""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One model (or one a task) and its scores."""

    title: str
    scores: Scores


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The table of the demonstration, a row a model.

    `sizes` are mean bytes of one task, `scales` those that validation chose, by method, `seconds` what each step took
    now, `record` everything that the report shows, as `taskvec.bench` has it.
    """

    rows: tuple[Row, ...]
    sizes: Mapping[str, float]
    restored: int
    scales: Mapping[str, float]
    negation: tuple[str, str, float]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    suite: str
    base: str
    folder: Path
    record: Mapping[str, Any]

    @property
    def report(self) -> Path:
        """Where the report is: the page that a browser shows, or the table alone."""
        page = self.folder / "report.html"
        return page if page.exists() else self.folder / "report.md"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in order."""
        return self.rows[0].scores.names()

    def table(self, *, errors: bool) -> list[list[str]]:
        """The rows as text: title, a number a task, the mean; `errors`: with the standard error of every number."""
        return [
            [
                row.title,
                *(percent(s.value, s.stderr if errors else None) for s in row.scores.rows),
                percent(row.scores.mean, row.scores.mean_stderr),
            ]
            for row in self.rows
        ]

    def size_lines(self) -> list[str]:
        """The sizes in words."""
        whole, exact, small = (self.sizes[k] for k in ("checkpoint", "exact", "int8"))
        return [
            f"one fine-tuned checkpoint: {whole / 1e6:.1f} MB",
            f"its task vector, exact: {exact / 1e6:.1f} MB ({100 * exact / whole:.0f} %), "
            f"{self.restored} of {len(self.tasks)} restored bit for bit",
            f"its task vector, int8: {small / 1e6:.1f} MB ({100 * small / whole:.0f} %)",
        ]

    def to_json(self) -> str:
        """Everything as JSON; scores are tables of (task, value, stderr, n)."""
        table = {
            "rows": [
                {"title": r.title, "mean": r.scores.mean, "scores": [asdict(s) for s in r.scores.rows]}
                for r in self.rows
            ],
            "sizes": dict(self.sizes),
            "restored": self.restored,
            "scales": dict(self.scales),
            "negation": dict(zip(("task", "control", "scale"), self.negation, strict=True)),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }
        return json.dumps(table, indent=2)

    def save(self, path: str | Path) -> Path:
        """Write `to_json()` to `path`."""
        target = Path(path)
        target.write_text(self.to_json() + "\n", "utf-8")
        return target

    def write(self) -> None:
        """Write report.html, report.md and results.json into the folder."""
        self.save(self.folder / "results.json")
        (self.folder / "report.md").write_text(self.markdown(), "utf-8")
        replace_durably(self.folder / "report.html", bench_page(self.record))

    def _example(self) -> str:
        edit = f"0.5*({' + '.join(self.tasks[:2])})"
        return f'taskvec apply {self.folder}/base "{edit}" --store {self.folder}/library -o edited'

    def markdown(self) -> str:
        """The table and what it says, as Markdown."""
        target, control, forget = self.negation
        explained = _EXPLAIN.format(
            target=target, control=control, forget=forget, methods=", ".join(self.scales), count=len(self.tasks)
        )
        head = ["model", *self.tasks, "mean"]
        lines = [head, ["---"] + ["---:"] * (len(head) - 1), *self.table(errors=True)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        sizes = "\n".join(f"- {line}" for line in self.size_lines())
        versions = ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))
        steps = self.settings["steps"]
        return (
            f"# taskvec demo: {len(self.tasks)} tasks of {self.suite}\n\n"
            f"The base model is {self.base}.\n\n"
            f"{table}\n{explained}\n## Sizes\n\n{sizes}\n\n## How\n\n"
            f"{steps} steps of fine-tuning a task (batch {self.settings['batch_size']}, learning rate "
            f"{self.settings['learning_rate']:g}), embeddings and head frozen. Texts from {versions}.\n\n"
            f"```\ntaskvec info {self.folder}/library\n{self._example()}\n```\n"
        )


def percent(value: float, stderr: float | None) -> str:
    """A fraction, and its standard error if there is one, in percent."""
    return f"{100 * value:.1f}" + (f"±{100 * stderr:.1f}" if stderr is not None else "")
