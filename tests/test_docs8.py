"""The suite docs8: real docstrings of installed libraries."""

import hashlib
import os
import re
import subprocess
import sys

import pytest

from taskvec.errors import UnknownName
from taskvec.evaluate import evaluate
from taskvec.suites import Suite, TextEncoder, docs8
from taskvec.suites.docs8_areas import KINDS, LIBRARIES
from taskvec.suites.harvest import digest_of

NAMES = (
    "scipy_area",
    "sklearn_area",
    "torch_area",
    "numpy_area",
    "python_area",
    "transformers_area",
    "which_library",
    "object_kind",
)
DIGEST = """
import hashlib
from taskvec.suites.docs8 import area_task
from taskvec.suites.docs8_areas import NUMPY
print(hashlib.sha256(repr(area_task(NUMPY)).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def suite() -> Suite:
    return docs8()


def test_docs8_has_eight_tasks_in_a_fixed_order(suite: Suite) -> None:
    assert suite.names() == NAMES


def test_an_unknown_task_suggests_the_nearest(suite: Suite) -> None:
    with pytest.raises(UnknownName, match=r"no task 'scipy_aera'.*\nFix: did you mean 'scipy_area'\?"):
        suite.task("scipy_aera")


@pytest.mark.parametrize("name", NAMES)
def test_a_task_has_at_least_200_training_40_validation_and_80_test_texts(suite: Suite, name: str) -> None:
    splits = suite.task(name).splits
    assert len(splits["train"]) >= 200
    assert len(splits["val"]) >= 40
    assert len(splits["test"]) >= 80


@pytest.mark.parametrize("name", NAMES)
def test_every_class_is_in_every_split_and_none_has_more_than_120_texts(suite: Suite, name: str) -> None:
    task = suite.task(name)
    for split in task.splits.values():
        assert set(split.labels) == set(range(len(task.classes)))
    everything = [label for split in task.splits.values() for label in split.labels]
    assert max(everything.count(label) for label in range(len(task.classes))) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_twice_in_a_task(suite: Suite, name: str) -> None:
    texts = [digest_of(text) for split in suite.task(name).splits.values() for text in split.texts]
    assert len(set(texts)) == len(texts)


def test_a_text_that_no_mask_touches_is_in_the_same_split_in_all_tasks(suite: Suite) -> None:
    places: dict[str, set[str]] = {}
    for task in suite.tasks:
        for name, split in task.splits.items():
            for text in split.texts:
                if "…" not in text:
                    places.setdefault(digest_of(text), set()).add(name)
    assert len(places) > 2000
    assert all(len(names) == 1 for names in places.values())


def hidden_names(task_name: str) -> list[str]:
    if task_name == "object_kind":
        return list(KINDS)
    if task_name == "which_library":
        return [name for library in LIBRARIES for name in (library.name, *library.aliases)]
    library = next(each for each in LIBRARIES if f"{each.name}_area" == task_name)
    return [library.name, *(area.label for area in library.areas)]


@pytest.mark.parametrize("name", NAMES)
def test_no_label_is_named_in_a_text_in_any_spelling(suite: Suite, name: str) -> None:
    texts = [text.lower() for split in suite.task(name).splits.values() for text in split.texts]
    for hidden in hidden_names(name):
        parts = re.findall(r"[a-z0-9]+", hidden.lower())
        for text in texts:
            words = re.findall(r"[^\W_]+", text)
            runs = {tuple(words[i : i + len(parts)]) for i in range(len(words))}
            assert tuple(parts) not in runs, text
            assert "".join(parts) not in words, text


def test_the_versions_of_all_harvested_libraries_are_recorded(suite: Suite) -> None:
    assert set(suite.versions) == {"scipy", "scikit-learn", "torch", "numpy", "python", "transformers"}
    assert suite.versions["python"] == ".".join(map(str, sys.version_info[:3]))


def test_another_process_with_another_hash_seed_builds_the_same_task(suite: Suite) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-W", "error", "-c", DIGEST]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == hashlib.sha256(repr(suite.task("numpy_area")).encode()).hexdigest()


def test_the_base_model_without_tuning_is_clearly_above_chance_on_every_task(suite: Suite) -> None:
    base = TextEncoder.open(suite.base)
    scores = evaluate(base, suite, split="test", limit=160, autocast=True)
    for row in scores.rows:
        labels = suite.task(row.task).split("test", limit=160).labels
        majority = max(labels.count(label) for label in labels) / len(labels)
        assert row.value - 2 * row.stderr > majority, row
