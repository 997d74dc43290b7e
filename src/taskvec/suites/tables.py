"""Texts and labels from tables: parquet and CSV files, read by the `datasets` library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
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

    `pair` is the column of a second text. `classes` replaces the names that the label column has; `phrases` are what
    the head embeds (default: the classes).
    """

    name: str
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    classes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    metric: str = "accuracy"
    version: str = "1"


def read_task(table: Table, folder: Path) -> Task:
    """The task from `folder/NAME/{train,val,test}.parquet` (or .csv); see `read_home`."""
    return read_home(table, folder / table.name)


def read_home(table: Table, home: Path) -> Task:
    """The task from `home/{train,val,test}.parquet` (or .csv).

    A task without a validation split gets a tenth of its training texts, chosen by the hash of the text.

    Raises:
        FormatError: a split is not there; says what to put where.
        SchemaError: a column or the classes' names are missing, or classes differ between two splits.
        ParameterError: a label outside the classes, or an empty split.
    """
    return _task(table, _splits(table, home))


def read_hub(
    table: Table, name: str, *, config: str | None = None, splits: Mapping[str, str] = MappingProxyType({})
) -> Task:
    """The task from a data set of the Hugging Face hub (or anything that `datasets.load_dataset` takes).

    Args:
        table: its columns and classes.
        name: of the data set.
        config: of it, where it has several.
        splits: train, val, test → how the hub calls them; default: train, validation (if there is one) and test.

    Raises:
        FormatError: the data set cannot be fetched, or lacks a split.
        SchemaError, ParameterError: as in `read_home`.
    """
    datasets = _datasets()
    try:
        found = datasets.load_dataset(name, config)
    except Exception as error:  # whatever the hub and the readers raise
        raise FormatError(
            f"the data set '{name}' of the hub cannot be fetched: {type(error).__name__}.",
            f"check the name and the network, or put train.parquet and test.parquet into a folder: {table.name}: "
            "{folder: PATH}.",
        ) from error
    names = {"train": "train", "val": "validation", "test": "test", **splits}
    for split in SPLITS:
        if names[split] not in found and (split != "val" or split in splits):
            raise FormatError(
                f"the data set '{name}' has no split '{names[split]}'; it has {sorted(found)}.",
                "say what they are called: splits: {train: …, val: …, test: …}.",
            )
    return _task(table, {split: found[names[split]] for split in SPLITS if names[split] in found})


def _task(table: Table, rows: Mapping[str, Any]) -> Task:
    for split, data in rows.items():
        _check_columns(table, split, data)
    classes = table.classes or _class_names(table, rows)
    splits = {name: _split(table, data, classes) for name, data in rows.items()}
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


def _splits(table: Table, home: Path) -> dict[str, Any]:
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
            f"put {missing[0]}.parquet with the columns {table.text} and {table.label} into '{home}'.",
        )
    return found


def _load(kind: str, path: Path) -> Any:
    datasets = _datasets()
    try:
        return datasets.load_dataset(kind, data_files={"train": str(path)}, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise FormatError(f"'{path}' cannot be read as {kind}: {error}", "replace it with a whole file.") from error


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
        found[split] = tuple(_names(table, split, data))
    classes = found["train"]
    for split, names in found.items():
        if not set(names) <= set(classes) or (len(names) == len(classes) and names != classes):
            odd = next((n for n in names if n not in classes), names[0])
            raise SchemaError(
                f"the class '{odd}' of the split '{split}' of task '{table.name}' is not one of the training split's.",
                "repair the labels, or give classes=(…).",
            )
    return classes


def _names(table: Table, split: str, data: Any) -> list[str]:
    names: list[str] | None = getattr(data.features[table.label], "names", None)
    if names is not None:
        return names
    values = set(data[table.label])
    if not all(isinstance(value, str) for value in values):
        raise SchemaError(
            f"the labels of the split '{split}' of task '{table.name}' are numbers without names, and the head is "
            "made of the classes' names.",
            "give classes=(…), in the order of the numbers, or words in the column.",
        )
    return sorted(values)


def _check_columns(table: Table, split: str, data: Any) -> None:
    for column in (table.text, table.label, *([table.pair] if table.pair else [])):
        if column not in data.column_names:
            raise SchemaError(
                f"the split '{split}' of task '{table.name}' has no column '{column}'; it has {data.column_names}.",
                "name the columns: Table(text=…, pair=…, label=…).",
            )


def _split(table: Table, data: Any, classes: tuple[str, ...]) -> Split:
    texts = [str(text) for text in data[table.text]]
    if table.pair:
        texts = [first + PAIR + str(second) for first, second in zip(texts, data[table.pair], strict=True)]
    labels = list(data[table.label])
    if labels and isinstance(labels[0], str):
        place = {name: i for i, name in enumerate(classes)}
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
