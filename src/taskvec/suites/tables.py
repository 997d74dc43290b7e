"""Texts and labels from tables: parquet and CSV files, or data sets of the hub; read by the `datasets` library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from taskvec.errors import FormatError, ParameterError, SchemaError
from taskvec.suites.task import SPLITS, Split, Task

PAIR = " [SEP] "
HELD_OUT = 0.1
"""The share of the training texts that becomes the validation split of a task that has none."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Where a task's rows are and what its columns are called.

    `hub` is a data set id, `config` its configuration; `splits` names its splits ours → theirs, where they differ.
    `classes` overrides the names that the label column has; `phrases` what the head embeds (default: the classes).
    """

    name: str
    hub: str = ""
    config: str | None = None
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    splits: Mapping[str, str] | None = None
    classes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    metric: str = "accuracy"
    version: str = "1"


def read_task(table: Table, folder: Path | None) -> Task:
    """The task from `folder/NAME/{train,val,test}.parquet` (or .csv), or from the hub where `folder` is None.

    A task without a validation split gets a tenth of its training texts, chosen by the hash of the text.

    Raises:
        FormatError: no such folder or data set; says what to put where.
        SchemaError: a column is missing, or classes differ between two splits.
        ParameterError: a label outside the classes, or an empty split.
    """
    rows = _from_folder(table, folder) if folder is not None else _from_hub(table)
    classes = table.classes or _class_names(table, rows)
    splits = {name: _split(table, data) for name, data in rows.items()}
    if "val" not in splits:
        splits["train"], splits["val"] = _held_out(splits["train"])
    phrases = table.phrases or tuple(name.replace("_", " ").replace("-", " ") for name in classes)
    return Task(
        name=table.name,
        classes=classes,
        phrases=phrases,
        splits={name: splits[name] for name in SPLITS},
        metric=table.metric,
        version=table.version,
    )


def _from_folder(table: Table, folder: Path) -> dict[str, Any]:
    home = folder / table.name
    found = {}
    for split in SPLITS:
        for kind in ("parquet", "csv"):
            path = home / f"{split}.{kind}"
            if path.is_file():
                found[split] = _load(kind, path)
                break
    missing = [split for split in ("train", "test") if split not in found]
    if missing:
        raise FormatError(
            f"the task '{table.name}' has no '{missing[0]}' split: '{home / missing[0]}.parquet' is not there.",
            f"put {missing[0]}.parquet with the columns {table.text} and {table.label} into '{home}'"
            + (f", or read the hub's {table.hub}." if table.hub else "."),
        )
    return found


def _load(kind: str, path: Path) -> Any:
    datasets = _datasets()
    try:
        return datasets.load_dataset(kind, data_files={"train": str(path)}, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise FormatError(f"'{path}' cannot be read as {kind}: {error}") from error


def _from_hub(table: Table) -> dict[str, Any]:
    datasets = _datasets()
    if not table.hub:
        raise FormatError(f"the task '{table.name}' is on no hub.", "give the folder with its files (--data).")
    try:
        found = datasets.load_dataset(table.hub, table.config)
    except (OSError, ValueError, RuntimeError) as error:
        raise FormatError(
            f"the data set '{table.hub}' of task '{table.name}' cannot be fetched ({type(error).__name__}: {error}).",
            f"go online, or give a folder with {table.name}/train.parquet and test.parquet (--data).",
        ) from error
    names = table.splits or {}
    return {ours: found[names.get(ours, ours)] for ours in SPLITS if names.get(ours, ours) in found}


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ParameterError(
            "tables of texts need the library datasets, which is not installed.", "pip install 'taskvec[hf]'."
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _class_names(table: Table, rows: Mapping[str, Any]) -> tuple[str, ...]:
    found: dict[str, tuple[str, ...]] = {}
    for split, data in rows.items():
        _check_columns(table, split, data)
        names = getattr(data.features[table.label], "names", None)
        values = names if names is not None else sorted({str(value) for value in data[table.label]})
        found[split] = tuple(values)
    classes = found["train"]
    for split, names in found.items():
        if not set(names) <= set(classes) or (len(names) == len(classes) and names != classes):
            odd = next((n for n in names if n not in classes), names[0])
            raise SchemaError(
                f"the class '{odd}' of the split '{split}' of task '{table.name}' is not one of the training split's.",
                "give the classes in the suite's file, or repair the labels.",
            )
    return classes


def _check_columns(table: Table, split: str, data: Any) -> None:
    for column in (table.text, table.label, *([table.pair] if table.pair else [])):
        if column not in data.column_names:
            raise SchemaError(
                f"the split '{split}' of task '{table.name}' has no column '{column}'; it has {data.column_names}.",
                "name the columns in the suite's file.",
            )


def _split(table: Table, data: Any) -> Split:
    texts = [str(text) for text in data[table.text]]
    if table.pair:
        texts = [first + PAIR + str(second) for first, second in zip(texts, data[table.pair], strict=True)]
    labels = list(data[table.label])
    if labels and isinstance(labels[0], str):
        place = {name: i for i, name in enumerate(table.classes or sorted({str(value) for value in labels}))}
        labels = [_place(table, place, label) for label in labels]
    order = _shuffled(texts)
    return Split(tuple(texts[i] for i in order), tuple(int(labels[i]) for i in order))


def _place(table: Table, place: Mapping[str, int], label: str) -> int:
    if label not in place:
        raise ParameterError(f"the label '{label}' of task '{table.name}' is not one of its classes {list(place)}.")
    return place[label]


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _shuffled(texts: Iterable[str]) -> list[int]:
    """The order by hash, so that the first n texts are a fixed random sample."""
    keyed = [(_key(text), i) for i, text in enumerate(texts)]
    return [i for _, i in sorted(keyed)]


def _held_out(train: Split) -> tuple[Split, Split]:
    held = [int(_key("held out " + text), 16) < HELD_OUT * 2**64 for text in train.texts]

    def part(wanted: bool) -> Split:
        kept = [i for i, is_held in enumerate(held) if is_held is wanted]
        return Split(tuple(train.texts[i] for i in kept), tuple(train.labels[i] for i in kept))

    return part(False), part(True)
