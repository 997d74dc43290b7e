"""What the demonstration found: one table, the sizes, and the Markdown report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from taskvec.evaluate import Scores

_EXPLAIN = """
**zero-shot**: the base model, with class phrases as the head. **tuned**: each task's own model on its own task.
**int8**: the same, from the task vector stored with 8 bits an entry. **average**: one model for all tasks, the base
plus the mean of the vectors. **×sum**: one model for all tasks, base + scale × the sum; the scale was chosen on
validation texts, and the model was read back from the folder that was written. **−**: base − scale × the vector of
{target}; that task is forgotten, while the control {control} keeps at least 95 % of its validation accuracy.
± is one standard error; all numbers are on test texts.
"""


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One model (or one a task) and its scores."""

    title: str
    scores: Scores


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The table of the demonstration; `sizes` are mean bytes of one task, `seconds` what each step took now."""

    columns: tuple[Column, ...]
    sizes: Mapping[str, float]
    restored: int
    scale: float
    negation: tuple[str, str, float]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    suite: str
    base: str
    folder: Path

    @property
    def report(self) -> Path:
        """Where the Markdown report is."""
        return self.folder / "report.md"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in order."""
        return self.columns[0].scores.names()

    def rows(self) -> list[list[str]]:
        """The table as text: a row a task and the mean, a column a model."""
        rows = [
            [name, *(percent(c.scores[name].value, c.scores[name].stderr) for c in self.columns)] for name in self.tasks
        ]
        return [
            *rows,
            ["mean", *(percent(c.scores.mean, c.scores.mean_stderr) for c in self.columns)],
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
            "columns": [{"title": c.title, "scores": [asdict(r) for r in c.scores.rows]} for c in self.columns],
            "sizes": dict(self.sizes),
            "restored": self.restored,
            "scale": self.scale,
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
        """Write report.md and results.json into the folder."""
        self.save(self.folder / "results.json")
        self.report.write_text(self.markdown(), "utf-8")

    def _example(self) -> str:
        edit = f"{self.scale:g}*({' + '.join(self.tasks[:2])})"
        return f'taskvec apply demo/base "{edit}" --store demo/library -o edited'

    def markdown(self) -> str:
        """The report."""
        explained = _EXPLAIN.format(target=self.negation[0], control=self.negation[1])
        head = ["task", *(c.title for c in self.columns)]
        lines = [head, ["---"] + ["---:"] * len(self.columns), *self.rows()]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        sizes = "\n".join(f"- {line}" for line in self.size_lines())
        versions = ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))
        steps = self.settings["steps"]
        return (
            f"# taskvec demo: {len(self.tasks)} tasks of {self.suite}\n\n"
            f"The base model is {self.base}. Test accuracy in percent.\n\n"
            f"{table}\n{explained}\n## Sizes\n\n{sizes}\n\n## How\n\n"
            f"{steps} steps of fine-tuning a task (batch {self.settings['batch_size']}, learning rate "
            f"{self.settings['learning_rate']:g}), embeddings and head frozen. Texts from {versions}.\n\n"
            f"```\ntaskvec info demo/library\n{self._example()}\n```\n"
        )


def percent(value: float, stderr: float) -> str:
    """A fraction and its standard error, in percent."""
    return f"{100 * value:.1f}±{100 * stderr:.1f}"
