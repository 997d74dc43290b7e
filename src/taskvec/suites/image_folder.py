"""Tasks from folders of images: `FOLDER/{train,val,test}/CLASS/IMAGE`; a text of such a task is an image's path."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from taskvec.errors import FormatError, ParameterError
from taskvec.suites.tables import HELD_OUT
from taskvec.suites.task import SPLITS, Split, Task

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_images(
    name: str,
    folder: Path,
    *,
    classes: Sequence[str] = (),
    phrases: Sequence[str] = (),
    metric: str = "accuracy",
    version: str = "1",
) -> Task:
    """The task of the images in `folder`; without a `val` folder, a tenth of the training images is held out.

    Order and held-out images go by the hash of the files' bytes, which is part of the task's version, too.

    Args:
        name: of the task.
        folder: see above; hidden files are not looked at.
        classes: names of the class folders; default: those of `train`, in order of name.
        phrases: what a head of names embeds; default: the classes.
        metric: see `Task`.
        version: see `Task`.

    Raises:
        FormatError: a split is not there (says what to put where), or something there is no image.
        ParameterError: a folder that is not one of the classes, or an empty split.
    """
    homes = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
    for split in ("train", "test"):
        if split not in homes:
            raise FormatError(
                f"the task '{name}' has no '{split}' images: the folder '{folder / split}' is not there.",
                f"put images into '{folder / split}/CLASS/', one folder a class.",
            )
    known = tuple(classes) or tuple(each.name for each in _visible(homes["train"]))
    rows = {split: _rows(name, home, known) for split, home in homes.items()}
    if "val" not in rows:
        held = [row for row in rows["train"] if int(row[0], 16) < HELD_OUT * 16 ** len(row[0])]
        rows["train"], rows["val"] = [row for row in rows["train"] if row not in held], held
    for split, found in rows.items():
        if not found:
            fix = "put images there." if split in homes else f"add training images, or '{folder / 'val'}'."
            raise ParameterError(f"the split '{split}' of task '{name}' has no image.", fix)
    digest = hashlib.blake2b("".join(key for s in SPLITS for key, _, _ in rows[s]).encode(), digest_size=6).hexdigest()
    return Task(
        name=name,
        classes=known,
        phrases=tuple(phrases) or tuple(each.replace("_", " ").replace("-", " ") for each in known),
        splits={s: Split(tuple(p for _, p, _ in rows[s]), tuple(y for _, _, y in rows[s])) for s in SPLITS},
        metric=metric,
        version=f"{version}+{digest}",
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


def _rows(name: str, home: Path, classes: Sequence[str]) -> list[tuple[str, str, int]]:
    """Hash of the bytes, path and label of every image, in order of the hash."""
    rows = []
    for folder in _visible(home):
        if folder.name not in classes or not folder.is_dir():
            raise ParameterError(
                f"'{folder}' is not the folder of a class of task '{name}'; they are {list(classes)}.",
                "move it away, or name it among the classes.",
            )
        for file in _visible(folder):
            if file.suffix.lower() not in SUFFIXES or not file.is_file():
                raise FormatError(f"'{file}' is not an image of a known kind.", f"known: {', '.join(SUFFIXES)}.")
            key = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
            rows.append((key, str(file), classes.index(folder.name)))
    return sorted(rows)
