"""Making a folder that transformers wrote hold exactly the tensors and side files of the folder it came from."""

import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from taskvec.errors import SchemaError

_SIDE_FILES = {".json", ".txt", ".model"}


def complete_folder(written: Path, original: Path) -> None:
    """Copies to `written` what `original` has and transformers left out; drops tensors that `original` lacks.

    Newer transformers do not write buffers that older files hold (e.g. `embeddings.position_ids`), but a difference
    of two checkpoints wants the same names. Originals without safetensors files are left as transformers wrote them.

    Raises:
        SchemaError: the two folders' tensors have different names throughout, or the names differ in sharded files.
    """
    wanted, have = names_in(original), names_in(written)
    if wanted and set(wanted) != set(have):
        if not set(wanted) & set(have):
            raise SchemaError(f"no tensor is named as in '{original}': {next(iter(have))!r} was written.")
        if len(set(wanted.values())) > 1 or len(set(have.values())) > 1:
            missing = sorted(set(wanted) ^ set(have))
            raise SchemaError(f"the tensor {missing[0]!r} is only in one of '{original}' and the saved copy.")
        _rewrite(next(iter(have.values())), next(iter(wanted.values())))
    for file in sorted(original.rglob("*")):
        target = written / file.relative_to(original)
        if file.suffix in _SIDE_FILES and not file.name.endswith(".index.json") and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def names_in(folder: Path) -> dict[str, Path]:
    """The names of the tensors in the safetensors files of a folder, and the file of each."""
    names: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as reader:
            names |= dict.fromkeys(reader.keys(), file)
    return names


def _rewrite(written: Path, original: Path) -> None:
    tensors, base = load_file(written), load_file(original)
    with safe_open(original, framework="pt") as reader:
        metadata = reader.metadata()
    save_file({name: tensors.get(name, base[name]).contiguous() for name in base}, written, metadata=metadata)
