"""The compression protocol: each task from its compressed vector, beside the exact bytes of what is stored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from taskvec.evaluate.line import line
from taskvec.evaluate.patch import deltas_of
from taskvec.evaluate.record import Record, row_named
from taskvec.evaluate.scores import Score, Scores, normalized
from taskvec.evaluate.scoring import Prepared
from taskvec.suites import Encoder
from taskvec.vector import TaskVector

Codec = tuple[str, Mapping[str, Any]]
"""A codec's name and its parameters, as `TaskVector.save` takes them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionRow:
    """One codec: bytes of all files, relative error of all vectors together, and the scores from them."""

    name: str
    bytes: int
    share: float
    error: float
    scores: Scores
    normalized: Scores


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Compression(Record):
    """One row a codec. `share` is bytes over those of the vectors in float32; normalized by the tuned models."""

    rows: tuple[CompressionRow, ...]

    def __getitem__(self, name: str) -> CompressionRow:
        """The row of that name.

        Raises:
            UnknownName: there is none.
        """
        return row_named(self.rows, name)

    def plain(self) -> dict[str, Any]:
        """A list of rows: name, bytes, share, error, mean, standard error, normalized mean, tasks."""
        return {"compression": [_plain(row) for row in self.rows]}


def _plain(row: CompressionRow) -> dict[str, object]:
    return {
        "name": row.name,
        "bytes": row.bytes,
        "share": row.share,
        "error": row.error,
        "mean": row.scores.mean,
        "stderr": row.scores.mean_stderr,
        "normalized": row.normalized.mean,
        "tasks": [asdict(each) for each in row.scores.rows],
    }


def compression(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    codecs: Mapping[str, Codec],
    folder: Path,
    *,
    test: Prepared,
    single: Scores,
    linear: bool = False,
    autocast: bool = False,
) -> Compression:
    """Stores every task's vector with every codec and scores the task from what was stored.

    Args:
        encoder: the base model; has its weights back afterwards.
        vectors: task name → its vector.
        codecs: label → codec and parameters.
        folder: where the files go, `LABEL/TASK.tv.safetensors`; what is there is written anew.
        test: the inputs of the tasks that are scored.
        single: the tuned models' scores on them.
        linear: score the model to first order in its weights, as linear regimes train it.
        autocast: run the encoder in bfloat16.

    Raises:
        UnknownName: no such codec, or a task without a vector. ParameterError: a codec's parameter out of its range.
    """
    whole = sum(4 * spec.numel for task in test.tasks for spec in vectors[task.task.name].specs.values())
    norms = {task.task.name: vectors[task.task.name].norm() for task in test.tasks}
    rows = []
    for label, (codec, parameters) in codecs.items():
        stored = {name: _store(vectors[name], folder / label / name, codec, parameters) for name in norms}
        size = sum(path.stat().st_size for path in stored.values())
        opened = {name: TaskVector.open(path) for name, path in stored.items()}
        error = sum((opened[n] - vectors[n]).norm() ** 2 for n in norms) / sum(x**2 for x in norms.values())
        scores = own_scores(encoder, opened, test, regime=single.regime, linear=linear, autocast=autocast)
        rows.append(
            CompressionRow(
                name=label,
                bytes=size,
                share=size / whole,
                error=error**0.5,
                scores=scores,
                normalized=normalized(scores, single),
            )
        )
    return Compression(rows=tuple(rows))


def own_scores(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    inputs: Prepared,
    *,
    regime: str,
    linear: bool = False,
    autocast: bool = False,
) -> Scores:
    """Each task scored on base + its own vector; `linear`: of the model to first order in its weights."""
    rows: list[Score] = []
    for task in inputs.tasks:
        alone = Prepared(suite=inputs.suite, split=inputs.split, tasks=(task,))
        delta = deltas_of(encoder, vectors[task.task.name])
        with line(encoder, alone, delta, linear=linear, autocast=autocast) as at:
            rows += at(1.0).rows
    return Scores(rows=tuple(rows), suite=inputs.suite, split=inputs.split, regime=regime)


def _store(vector: TaskVector, path: Path, codec: str, parameters: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return vector.save(path.with_name(f"{path.name}.tv.safetensors"), codec=codec, force=True, **parameters)
