"""A suite of one's own, from one YAML file.

    base: ./my-encoder            # folder or hub id; relative to this file
    tasks:
      reviews:
        folder: data/reviews      # {train,val,test}.parquet or .csv; val may be missing
        text: sentence            # columns: text, label, pair (a second text)
        classes: {neg: a bad review, pos: a good review}
      news:
        hub: fancyzhx/ag_news     # or a hub name
        splits: {train: train, test: test}

and of images:

    base: ./my-vit
    inputs: images
    head: prototypes              # names, where the model reads texts
    tasks:
      pets: {folder: images/pets} # {train,val,test}/CLASS/IMAGE
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

from taskvec.errors import FormatError, ParameterError, SchemaError
from taskvec.recipes.document import Document
from taskvec.suites.fields import Fields
from taskvec.suites.head import DEFAULT_TEMPERATURE
from taskvec.suites.image_folder import read_images
from taskvec.suites.tables import Table, read_home, read_hub
from taskvec.suites.task import SPLITS, Suite, Task

_SUITE = ("base", "tasks", "name", "inputs", "head", "temperature")
_TASK = ("folder", "hub", "config", "splits", "text", "pair", "label", "classes", "metric", "version")
_OF_TEXTS = ("hub", "config", "splits", "text", "pair", "label")
_CLASSES = "a list of names, or a table NAME: PHRASE"


def read_suite(path: str | Path, *, base: str | None = None) -> Suite:
    """The suite that a YAML file describes; relative paths start from its folder.

    Args:
        path: the file.
        base: another base model than the file's.

    Raises:
        ParameterError: the file says something that it cannot say; with line, column and the nearest known name.
        FormatError, SchemaError: a task's data are not there or do not fit; with the line of the task.
    """
    document = Document.read(path, what="suite")
    fields = Fields(document, (), _SUITE, "the suite")
    images = fields.choice("inputs", ("texts", "images"), "texts") == "images"
    given = fields.value("tasks", "a table NAME: TASK")
    if not isinstance(given, Mapping) or not given:
        raise fields.wrong("tasks", "a table NAME: TASK, with one task at least")
    source = fields.word("base", "the folder or hub id of a model")
    return Suite(
        name=fields.word("name", "a word", Path(path).stem),
        base=base or _source(document, source),
        tasks=tuple(_task(document, name, images) for name in given),
        temperature=fields.number("temperature", "a number above 0", DEFAULT_TEMPERATURE),
        versions={},
        inputs="images" if images else "texts",
        head=cast(
            "Literal['names', 'prototypes']",
            fields.choice("head", ("names", "prototypes"), "prototypes" if images else "names"),
        ),
    )


def _source(document: Document, source: str) -> str:
    home = (document.folder or Path()) / source
    return str(home) if home.is_dir() else source


def _task(document: Document, name: str, images: bool) -> Task:
    fields = Fields(document, ("tasks", name), _TASK, f"task '{name}'")
    if ("folder" in fields) == ("hub" in fields):
        raise fields.refusal(f"task '{name}' needs either a folder or a hub name", "give folder: PATH, or hub: NAME.")
    if images:
        for key in (each for each in _OF_TEXTS if each in fields):
            raise fields.refusal(f"'{key}' is not for images", "images are read from a folder: folder: PATH.", key=key)
    named = fields.names("classes", _CLASSES)
    phrases = [phrase for phrase in named.values() if phrase]
    if phrases and len(phrases) < len(named):
        raise fields.refusal("some classes have a phrase and some have none", "give each one.", key="classes")
    try:
        task = _read(document, fields, name, tuple(named), tuple(phrases), images=images)
        for split in SPLITS:
            task.split(split)
    except (FormatError, SchemaError, ParameterError) as error:
        told = error.fact.startswith(document.marks.label)  # where it stands
        place = "" if told else document.marks.at(("tasks", name), key=True)
        raise type(error)(place + error.fact, error.fix) from error
    return task


def _read(
    document: Document, fields: Fields, name: str, classes: tuple[str, ...], phrases: tuple[str, ...], *, images: bool
) -> Task:
    metric, version = fields.word("metric", "the name of a metric", "accuracy"), fields.word("version", "a word", "1")
    folder = (document.folder or Path()) / fields.word("folder", "a path", "")
    if images:
        return read_images(name, folder, classes=classes, phrases=phrases, metric=metric, version=version)
    table = Table(
        name=name,
        text=fields.word("text", "the name of a column", "text"),
        pair=fields.word("pair", "the name of a column", None),
        label=fields.word("label", "the name of a column", "label"),
        classes=classes,
        phrases=phrases,
        metric=metric,
        version=version,
    )
    if "folder" in fields:
        return read_home(table, folder)
    names: dict[str, str] = {}
    if "splits" in fields:
        given = Fields(document, ("tasks", name, "splits"), SPLITS, f"the splits of '{name}'")
        names = {split: given.word(split, "the hub's name of the split") for split in SPLITS if split in given}
    config = fields.word("config", "the name of a configuration", None)
    return read_hub(table, fields.word("hub", "a hub name"), config=config, splits=names)
