"""Reading and masking docstrings."""

from collections.abc import Callable
from pathlib import Path

import pytest

from taskvec.errors import ParameterError
from taskvec.suites.docs8 import labeled_task, split_of
from taskvec.suites.harvest import Docstring, harvest, prose_of, root_of, version_of
from taskvec.suites.masking import mask_names, name_pattern

SOURCE = '''"""This file holds tools for the tests of this package."""
import abc
class Widget:
    """A widget that holds a number and shows it."""
    def __init__(self):
        """Make a widget out of nothing at all."""
    @property
    def number(self):
        """The number that this widget shows to people."""
    @number.setter
    def number(self, value):
        """Set the number that this widget shows to people."""
    def show(self):
        """Print the number on the screen of this widget."""
    def hide(self):
        """Too short."""
    class _Secret:
        """A private class that nobody should ever see."""
class WidgetError(ValueError):
    """Raised when a widget has no number to show."""
async def build():
    """Build a widget from the parts that are there.

    Parameters
    ----------
    parts : list
    """
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "widgets_for_test"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text(SOURCE)
    (folder / "broken.py").write_text("def (:\n")
    (folder / "tests" / "test_it.py").write_text('"""A test module that no harvest should read."""')
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_public_objects_are_read_with_their_kind_and_without_importing(package: str) -> None:
    import sys

    found = harvest("w", package, ("*.py", "tests"))
    assert [(each.path, each.kind) for each in found] == [
        ("__init__", "module"),
        ("__init__.Widget", "class"),
        ("__init__.Widget.number", "property"),
        ("__init__.Widget.show", "method"),
        ("__init__.WidgetError", "exception"),
        ("__init__.build", "function"),
    ]
    assert found[2].text == "The number that this widget shows to people."
    assert found[-1].text == "Build a widget from the parts that are there."
    assert package not in sys.modules


def test_a_source_that_the_package_lacks_is_refused(package: str) -> None:
    with pytest.raises(ParameterError, match=r"'gone' is not part of the installed package at .*\nFix: "):
        harvest("w", package, ("gone",))


def test_a_package_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"the package 'no_such_package', .* is not installed\.\nFix: pip"):
        root_of("no_such_package")
    with pytest.raises(ParameterError, match=r"the distribution 'no-such-package' is not installed\.\nFix: pip"):
        version_of("no-such-package")


def test_compiled_classes_are_read_from_the_imported_module() -> None:
    found = harvest("numpy", "numpy", ("import:numpy.random:Generator",))
    texts = {each.path: each.text for each in found}
    assert texts["numpy.random.Generator.binomial"].startswith("Draw samples from a binomial distribution.")


@pytest.mark.parametrize(
    ("docstring", "prose"),
    [
        ("Sum of :func:`~a.b.add` results.\n\nParameters\n----------\nx : int", "Sum of a.b.add results."),
        ("Title\n=====\n\nBody of the ``text`` [1]_.", "Title Body of the text ."),
        ("add(x, y)\n\nAdd two numbers.", "Add two numbers."),
        ("Make it.\n\nArgs:\n    x: what", "Make it."),
        ("Make it.\n\n>>> make()\n3", "Make it."),
        ("Parameters\n----------\nx : int", ""),
        ("", ""),
    ],
)
def test_prose_is_what_comes_before_the_first_section_without_markup(docstring: str, prose: str) -> None:
    assert prose_of(docstring) == prose


def test_prose_is_cut_at_a_word_within_240_characters() -> None:
    assert prose_of("word " * 100) == " ".join(["word"] * 48)
    assert len(prose_of("x" * 240)) == 240


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("The linear model fits.", "The … fits."),
        ("Use Linear-Models or LinearModel.", "Use … or …."),
        ("sklearn.linear_model.Ridge is best", "… is best"),
        ("see _linear_model_ and linear_model", "see … and …"),
        ("a linear linear model model", "a linear … model"),
        ("linear algebra of models", "linear algebra of models"),
        ("scikit-learn SKLEARN", "…"),
        ("sklearnex bilinear modeling", "sklearnex bilinear modeling"),
    ],
)
def test_names_are_masked_in_every_spelling_and_other_words_stay(text: str, masked: str) -> None:
    pattern = name_pattern(["linear_model", "sklearn", "scikit-learn"])
    assert mask_names(text, pattern) == masked


def test_a_pattern_of_no_names_is_an_error() -> None:
    with pytest.raises(ValueError, match="no names to hide"):
        name_pattern([])


@pytest.fixture
def docs() -> Callable[..., list[Docstring]]:
    return lambda *texts: [Docstring("w", f"p{n}", "function", text) for n, text in enumerate(texts)]


def all_texts(task_splits: dict[str, object]) -> set[str]:
    return {text for split in task_splits.values() for text in split.texts}  # type: ignore[attr-defined]


def test_copies_count_once_and_texts_of_two_classes_are_dropped(docs: Callable[..., list[Docstring]]) -> None:
    texts = {
        "x": docs("one text", "One  text.", "two"),
        "y": docs("two", "three", "the secret"),
    }
    task = labeled_task("t", {"x": "an x", "y": "a y"}, texts, hidden=["secret"])
    assert sorted(text.lower().rstrip(".").replace("  ", " ") for text in all_texts(dict(task.splits))) == [
        "one text",
        "the …",
        "three",
    ]


def test_a_class_without_a_text_of_its_own_is_refused(docs: Callable[..., list[Docstring]]) -> None:
    with pytest.raises(ParameterError, match="class 'x' of task 't' has no text of its own"):
        labeled_task("t", {"x": "an x", "y": "a y"}, {"x": docs("two"), "y": docs("two", "three")}, hidden=["secret"])


def test_the_split_is_a_function_of_the_hash_in_the_stated_shares() -> None:
    shares = [split_of(f"{n:064x}") for n in range(100)]
    assert (shares.count("train"), shares.count("val"), shares.count("test")) == (60, 15, 25)
