"""Tasks and suites refuse what does not fit together."""

from typing import Any

import pytest

from taskvec.errors import ParameterError, UnknownName
from taskvec.suites import Split, Suite, Task

FULL = Split(("a", "b"), (0, 1))
EMPTY = Split((), ())


def make_task(**changes: Any) -> Task:
    fields: dict[str, Any] = {
        "name": "t",
        "classes": ("x", "y"),
        "phrases": ("an x", "a y"),
        "splits": {"train": FULL, "val": FULL, "test": EMPTY},
    }
    return Task(**(fields | changes))


def test_a_limit_takes_the_first_examples() -> None:
    assert make_task().split("train", limit=1) == Split(("a",), (0,))
    assert make_task().split("train", limit=9) == make_task().split("train") == FULL


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_classes_is_refused(label: int) -> None:
    splits = {"train": FULL, "val": Split(("a", "b"), (0, label)), "test": FULL}
    with pytest.raises(
        ParameterError, match=rf"label {label} of text 1 in the split 'val' of task 't' is outside the classes 0 … 1"
    ):
        make_task(splits=splits)


def test_an_empty_split_is_refused_when_it_is_used() -> None:
    with pytest.raises(ParameterError, match=r"the split 'test' of task 't' is empty\.\nFix: "):
        make_task().split("test")


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_that_leaves_nothing_is_refused(limit: int) -> None:
    with pytest.raises(ParameterError, match=f"limit={limit} leaves no example of task 't'"):
        make_task().split("train", limit=limit)


def test_an_unknown_split_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"task 't' has no split 'trian'\.\nFix: did you mean 'train'\?"):
        make_task().split("trian")


def test_texts_and_labels_must_be_as_many() -> None:
    with pytest.raises(ParameterError, match="a split has 2 texts but 1 labels"):
        Split(("a", "b"), (0,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phrases": ("an x",)}, "task 't' has 2 classes and 1 phrases"),
        ({"classes": ("x",), "phrases": ("an x",)}, "task 't' has 1 classes and 1 phrases"),
        ({"classes": ("x", "x")}, "task 't' has the class 'x' twice"),
        ({"phrases": ("it", "it")}, "task 't' has the phrase 'it' twice"),
        ({"splits": {"train": FULL}}, "task 't' has the splits"),
    ],
)
def test_a_task_that_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make_task(**changes)


@pytest.mark.parametrize("tasks", [(), (make_task(), make_task())])
def test_a_suite_needs_tasks_of_distinct_names(tasks: tuple[Task, ...]) -> None:
    with pytest.raises(ParameterError, match="suite 's' needs tasks of distinct names"):
        Suite(name="s", base="b", tasks=tasks, temperature=20.0, versions={})
