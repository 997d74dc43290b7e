"""The suite `docs8`: eight classification tasks over the docstrings of libraries that are installed anyway."""

import re
from collections.abc import Iterable, Mapping

from taskvec.errors import ParameterError
from taskvec.suites.docs8_areas import KINDS, LIBRARIES, TEMPERATURE, VERSION, Library
from taskvec.suites.encoder import base_source
from taskvec.suites.harvest import Docstring, digest_of, harvest, version_of
from taskvec.suites.masking import mask_names, name_pattern
from taskvec.suites.task import Split, Suite, Task

PER_CLASS = 120
"""At most so many texts a class, so that no class drowns the others."""

QUADRUPLES = (
    ("scipy_function", "scipy_class", "sklearn_function", "sklearn_class"),
    ("scipy_class", "scipy_function", "sklearn_class", "sklearn_function"),
    ("sklearn_function", "sklearn_class", "scipy_function", "scipy_class"),
    ("sklearn_class", "sklearn_function", "scipy_class", "scipy_function"),
)
"""Each of the four tasks of `docs8_subsets` as D once."""


def docs8(*, base: str | None = None) -> Suite:
    """The suite, built from the installed libraries in seconds; equal library versions give an equal suite.

    Six tasks ask which area (subpackage) of a library a text documents, one asks which library, one what kind of
    object. Splits go by the hash of the unmasked text, so an object is in the same split in all tasks.

    Args:
        base: folder or hub id of the encoder; by default the installed all-MiniLM-L6-v2, else its hub id.

    Raises:
        ParameterError: a library is not installed, or its installed version lacks an area.
    """
    everything = [each for library in LIBRARIES for texts in area_docstrings(library).values() for each in texts]
    others = (_library_task(everything), _kind_task(everything))
    return Suite(
        name="docs8",
        base=base or base_source(),
        tasks=(*(area_task(library) for library in LIBRARIES), *others),
        temperature=TEMPERATURE,
        versions={library.distribution: version_of(library.distribution) for library in LIBRARIES},
        controls=others,
        analogies=docs8_subsets(base=base).analogies,
    )


def area_docstrings(library: Library) -> dict[str, tuple[Docstring, ...]]:
    """Area label → docstrings of the installed library; read once a process."""
    return {area.label: harvest(library.name, library.package, area.sources) for area in library.areas}


def area_task(library: Library) -> Task:
    """The task "which area of this library does the text document?"."""
    hidden = [library.package, *library.aliases, *(alias for area in library.areas for alias in area.aliases)]
    phrases = {area.label: area.phrase for area in library.areas}
    return labeled_task(f"{library.name}_area", phrases, area_docstrings(library), hidden=[*phrases, *hidden])


def docs8_subsets(*, base: str | None = None) -> Suite:
    """Four tasks for analogies: {SciPy, scikit-learn} × {function, class}, "which area of the two libraries is it?".

    All share their 24 classes, the areas of both libraries, and each has the texts of one library and one kind of
    object; so "scipy_function is to scipy_class as sklearn_function is to sklearn_class" is an analogy of task vectors.
    Classes of which a subset has no text are in its head all the same. Arguments and errors as in `docs8`.
    """
    libraries = [each for each in LIBRARIES if each.name in ("scipy", "sklearn")]
    phrases = {f"{each.name}.{area.label}": area.phrase for each in libraries for area in each.areas}
    hidden = [label for each in libraries for area in each.areas for label in (area.label, *area.aliases)]
    hidden += [name for each in libraries for name in (each.package, *each.aliases)]
    tasks = []
    for library in libraries:
        areas = area_docstrings(library)
        for kind in ("function", "class"):
            texts = {
                label: [d for d in areas.get(label.partition(".")[2], ()) if d.kind == kind]
                if label.startswith(f"{library.name}.")
                else []
                for label in phrases
            }
            tasks.append(labeled_task(f"{library.name}_{kind}", phrases, texts, hidden=hidden, sparse=True))
    of = {task.name: task for task in tasks}
    return Suite(
        name="docs8_subsets",
        base=base or base_source(),
        tasks=tuple(tasks),
        temperature=TEMPERATURE,
        versions={each.distribution: version_of(each.distribution) for each in libraries},
        analogies=tuple((of[a], of[b], of[c], of[d]) for a, b, c, d in QUADRUPLES),
    )


def _library_task(everything: Iterable[Docstring]) -> Task:
    phrases = {library.name: library.phrase for library in LIBRARIES}
    hidden = [*phrases, *(alias for library in LIBRARIES for alias in library.aliases)]
    return labeled_task("which_library", phrases, _grouped(phrases, everything, "library"), hidden=hidden)


def _kind_task(everything: Iterable[Docstring]) -> Task:
    hidden = [*KINDS, "properties"]
    return labeled_task("object_kind", KINDS, _grouped(KINDS, everything, "kind"), hidden=hidden)


def _grouped(labels: Iterable[str], everything: Iterable[Docstring], by: str) -> dict[str, list[Docstring]]:
    groups: dict[str, list[Docstring]] = {label: [] for label in labels}
    for docstring in everything:
        groups[getattr(docstring, by)].append(docstring)
    return groups


def labeled_task(
    name: str,
    phrases: Mapping[str, str],
    texts: Mapping[str, Iterable[Docstring]],
    *,
    hidden: Iterable[str],
    sparse: bool = False,
) -> Task:
    """The task whose classes are the keys of `phrases` and whose examples are `texts` with `hidden` names masked.

    Texts that more than one class has are dropped; copies within a class count once. At most 120 texts a class are
    kept (smallest hash first); 60 % of the hashes belong to train, 15 % to val, 25 % to test. A class without a text is
    refused, unless the task is `sparse`.

    Raises:
        ParameterError: a class has no text.
    """
    pattern = name_pattern(hidden)
    classes = tuple(phrases)
    masked = {label: _masked(texts[label], pattern) for label in classes}
    owners: dict[str, int] = {}
    for copies in masked.values():
        for key in copies:
            owners[key] = owners.get(key, 0) + 1
    rows: list[tuple[str, str, int]] = []  # hash of the unmasked text, text, label
    for index, label in enumerate(classes):
        own = sorted(row for key, row in masked[label].items() if owners[key] == 1)
        if not own and not sparse:
            raise ParameterError(f"class '{label}' of task '{name}' has no text of its own.")
        rows += ((key, text, index) for key, text in own[:PER_CLASS])
    return Task(
        name=name, classes=classes, phrases=tuple(phrases.values()), splits=_splits(sorted(rows)), version=VERSION
    )


def _masked(docstrings: Iterable[Docstring], pattern: re.Pattern[str]) -> dict[str, tuple[str, str]]:
    """Key of the masked text → (key of the unmasked text, masked text); the smallest original of several."""
    found: dict[str, tuple[str, str]] = {}
    for docstring in docstrings:
        text = mask_names(docstring.text, pattern)
        row = (docstring.key, text)
        key = digest_of(text)
        found[key] = min(found.get(key, row), row)
    return found


def _splits(rows: Iterable[tuple[str, str, int]]) -> dict[str, Split]:
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
    for key, text, label in rows:
        parts[split_of(key)].append((text, label))
    return {name: Split(tuple(t for t, _ in part), tuple(y for _, y in part)) for name, part in parts.items()}


def split_of(key: str) -> str:
    """The split that the last digits of a hexadecimal hash decide: 60 % train, 15 % val, 25 % test."""
    percent = int(key[-8:], 16) % 100
    return "train" if percent < 60 else "val" if percent < 75 else "test"
