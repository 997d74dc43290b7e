"""A task is texts, labels and class phrases; a suite is a base model and tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

from taskvec.errors import ParameterError, UnknownName

SPLITS = ("train", "val", "test")


@final
@dataclass(frozen=True, slots=True)
class Split:
    """Texts and their labels (indices into the task's classes), in a fixed order.

    Raises:
        ParameterError: there are not as many labels as texts.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise ParameterError(f"a split has {len(self.texts)} texts but {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.texts)

    def head(self, limit: int | None) -> "Split":
        """The first `limit` examples; all of them for None or a limit beyond the end."""
        return Split(self.texts[:limit], self.labels[:limit])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A classification task with splits `train`, `val` and `test` and a short phrase for each class.

    Order within a split is part of the task: the first n examples are the sample that `limit=n` uses.
    `metric` names an entry of `taskvec.evaluate.metrics`; `version` changes whenever a number measured on the task may.

    Raises:
        ParameterError: a split is missing, a phrase is missing or repeated, or a label lies outside the classes.
    """

    name: str
    classes: tuple[str, ...]
    phrases: tuple[str, ...]
    splits: Mapping[str, Split]
    metric: str = "accuracy"
    version: str = "1"

    def __post_init__(self) -> None:
        _check_classes(self)
        if set(self.splits) != set(SPLITS):
            raise ParameterError(f"task '{self.name}' has the splits {sorted(self.splits)}, not {sorted(SPLITS)}.")
        for split_name, split in self.splits.items():
            _check_labels(self, split_name, split)

    def split(self, name: str, *, limit: int | None = None) -> Split:
        """The split `name`, or its first `limit` examples.

        Raises:
            UnknownName: there is no split of that name.
            ParameterError: the split is empty, or the limit is not positive.
        """
        if name not in self.splits:
            raise UnknownName.among(f"task '{self.name}' has no split '{name}'.", name, self.splits)
        if limit is not None and limit < 1:
            raise ParameterError(f"limit={limit} leaves no example of task '{self.name}'.", "limit ≥ 1, or None.")
        split = self.splits[name]
        if not len(split):
            raise ParameterError(
                f"the split '{name}' of task '{self.name}' is empty.",
                "give it at least one text, or use another split.",
            )
        return split.head(limit)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A base model and the tasks that its fine-tunes are scored on.

    `base` is a folder or a hub id, `temperature` multiplies the cosines of every head, and `versions` records
    what the data came from (library name → version). `controls` are tasks that must stay when another is negated,
    `analogies` the tasks A, B, C and D of which A is to B as C is to D; neither has to be among `tasks`.

    Raises:
        ParameterError: there is no task, or two have the same name.
    """

    name: str
    base: str
    tasks: tuple[Task, ...]
    temperature: float
    versions: Mapping[str, str]
    controls: tuple[Task, ...] = ()
    analogies: tuple[tuple[Task, Task, Task, Task], ...] = ()
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    inputs: Literal["texts", "images"] = "texts"
    head: Literal["names", "prototypes"] = "names"

    def __post_init__(self) -> None:
        names = self.names()
        if not names or len(set(names)) < len(names):
            raise ParameterError(f"suite '{self.name}' needs tasks of distinct names, not {list(names)}.")

    def names(self) -> tuple[str, ...]:
        """The tasks' names, in order."""
        return tuple(task.name for task in self.tasks)

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            UnknownName: there is none; the nearest name is suggested.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise UnknownName.among(f"suite '{self.name}' has no task '{name}'.", name, self.names())

    def control_of(self, target: str) -> Task | None:
        """The task that must stay when `target` is negated: a control, else another task; None where there is none."""
        return next((task for task in (*self.controls, *self.tasks) if task.name != target), None)


def _check_classes(task: Task) -> None:
    if len(task.classes) < 2 or len(task.classes) != len(task.phrases):
        raise ParameterError(
            f"task '{task.name}' has {len(task.classes)} classes and {len(task.phrases)} phrases.",
            "one phrase a class, and at least two classes.",
        )
    for what, values in (("class", task.classes), ("phrase", task.phrases)):
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise ParameterError(f"task '{task.name}' has the {what} '{twice}' twice.")


def _check_labels(task: Task, split_name: str, split: Split) -> None:
    for position, label in enumerate(split.labels):
        if not 0 <= label < len(task.classes):
            raise ParameterError(
                f"label {label} of text {position} in the split '{split_name}' of task '{task.name}' is outside"
                f" the classes 0 … {len(task.classes) - 1}."
            )
