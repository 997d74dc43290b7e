"""Which files make up a checkpoint: a single file, an index, several shards, or subfolders; decided without reading."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, final

from taskvec.checkpoint.safetensors_file import SafetensorsFile
from taskvec.checkpoint.source import AbstractSource, Home, TensorSpec
from taskvec.checkpoint.strict_json import parse
from taskvec.errors import FormatError

if TYPE_CHECKING:
    from taskvec.ops.bits import Bits

STANDARD = ("model", "diffusion_pytorch_model", "pytorch_model")
ADAPTER = "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
INDEX = re.compile(r"(?P<stem>.+)\.(?P<kind>safetensors|bin)\.index(\.(?P<variant>[^.]+))?\.json")
_INDEX_LIMIT = 100_000_000
_SIDE_STATE = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "adapter_model")


class TensorFile(Protocol):
    """One opened file of tensors (safetensors or a restricted pickle)."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Shape and dtype of each tensor, in on-disk order."""

    @property
    def ties(self) -> Mapping[str, str]:
        """Alias → the name that holds its data."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's own string table."""

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """See `AbstractSource.bits`."""

    def identity(self, name: str) -> tuple[object, ...] | None:
        """See `AbstractSource.identity`."""


@final
class FileSource(AbstractSource):
    """The tensors of one or more files, under one table of names."""

    def __init__(self, root: Path, files: Mapping[str, TensorFile], *, single: bool) -> None:
        self._where: dict[str, tuple[TensorFile, str]] = {}
        self.specs = {}
        self.ties = {}
        shards: dict[str, tuple[str, ...]] = {}
        for relative, file in files.items():
            prefix = _prefix(relative)
            shards[relative] = tuple(prefix + n for n in file.specs)
            for name, spec in file.specs.items():
                full = prefix + name
                if full in self._where:
                    other = next(r for r, names in shards.items() if full in names)
                    raise FormatError(
                        f"tensor '{full}' is in both '{other}' and '{relative}' of '{root}'.",
                        "name the one file to open, or remove the copy.",
                    )
                self._where[full] = (file, name)
                self.specs[full] = spec
            self.ties |= {prefix + alias: prefix + kept for alias, kept in file.ties.items()}
        self.ties = {alias: kept for alias, kept in self.ties.items() if alias not in self.specs}
        self.home = Home(root, shards, {r: f.metadata for r, f in files.items()}, single)

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """See the base class."""
        file, inner = self._where[self.ties.get(name, name)]
        return file.bits(inner, start, stop)

    def identity(self, name: str) -> tuple[object, ...] | None:
        """See the base class."""
        file, inner = self._where[self.ties.get(name, name)]
        return file.identity(inner)


def open_files(path: Path) -> FileSource:
    """The source for an existing local file or folder.

    Raises:
        FormatError: nothing that holds weights, an index that lies, or a file that breaks its format.
    """
    if path.is_file():
        return FileSource(path, {path.name: open_file(path)}, single=True)
    if not path.is_dir():
        raise FormatError(f"'{path}' is neither a file nor a folder.", "name a file or folder that holds weights.")
    try:
        names = list(_weight_files(path))
    except OSError as error:
        raise FormatError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if not names:
        raise FormatError(
            f"'{path}' holds no weights: no *.safetensors, pytorch_model.bin, *.pt or *.pth.",
            "name the folder that holds the model's files.",
        )
    for relative in names:
        inside(path, path, relative)
    files = {relative: open_file(path / relative) for relative in names}
    for folder in dict.fromkeys(PurePosixPath(n).parent for n in names):
        _check_index(path, folder, files)
    return FileSource(path, _without_variants(files), single=False)


def open_file(path: Path) -> TensorFile:
    """One file of tensors, opened by what its suffix says.

    Raises:
        FormatError: another suffix, or a file that breaks its format.
    """
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in PICKLES:
        from taskvec.checkpoint.torch_file import TorchFile

        return TorchFile(path)
    raise FormatError(
        f"'{path}' is neither a safetensors file nor a torch file ({', '.join(PICKLES)}).",
        "convert it to safetensors.",
    )


def _prefix(relative: str) -> str:
    folder = PurePosixPath(relative).parent.as_posix()
    return "" if folder == "." else folder + "/"


def _weight_files(root: Path) -> Iterator[str]:
    """Relative paths of the weight files, in name order within each folder."""
    for folder in _folders(root):
        yield from ((folder / n).as_posix() for n in _files_in(root / folder))


def _folders(root: Path) -> list[PurePosixPath]:
    """The folders that hold weights: named by modules.json or model_index.json, else the root, else its children.

    A model_index.json names components that live in folders of their own; single files beside it repeat them.
    """
    here = PurePosixPath(".")
    if (root / "modules.json").is_file():
        table = read_json(root / "modules.json")
        listed = [str(m.get("path", "")) for m in table if isinstance(m, dict)] if isinstance(table, list) else []
        return list(dict.fromkeys([here, *(inside(root, root / "modules.json", p) for p in listed)]))
    if (root / "model_index.json").is_file():
        table = read_json(root / "model_index.json")
        parts = [k for k, v in table.items() if isinstance(v, list)] if isinstance(table, dict) else []
        return [inside(root, root / "model_index.json", p) for p in sorted(parts)]
    if list(_files_in(root)):
        return [here]
    return [PurePosixPath(p.name) for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _files_in(folder: Path) -> list[str]:
    """Names of the weight files of one folder; safetensors are preferred to pickles, standard names to others."""
    if not folder.is_dir():
        return []
    names = sorted(p.name for p in folder.iterdir() if (p.is_file() or p.is_symlink()) and p.name[0] != ".")
    index = _index_in(folder)
    if index:
        return _indexed(folder, index)
    tensors = [n for n in names if n.endswith(".safetensors") and n != ADAPTER]
    if tensors:
        return sorted(tensors, key=lambda n: (Path(n).stem not in STANDARD, n))
    return _pickles(folder, names)


def _pickles(folder: Path, names: list[str]) -> list[str]:
    found = [n for n in names if Path(n).suffix in PICKLES and not n.startswith(_SIDE_STATE)]
    chosen = [n for n in found if Path(n).stem in STANDARD] or found
    if len(chosen) > 1:
        raise FormatError(f"'{folder}' has several torch files: {', '.join(chosen[:5])}.", "name the one to open.")
    return chosen


def _without_variants(files: dict[str, TensorFile]) -> dict[str, TensorFile]:
    """Drop variants, `model.fp16.safetensors` beside `model.safetensors`, that hold nothing but the same names."""
    kept = dict(files)
    for relative, file in files.items():
        path = PurePosixPath(relative)
        if path.stem not in STANDARD:
            continue
        for other, copy in files.items():
            variant = other.startswith(f"{_prefix(relative)}{path.stem}.") and other != relative
            if variant and copy.specs.keys() <= file.specs.keys():
                kept.pop(other, None)
    return kept


def _index_in(folder: Path) -> str | None:
    """The folder's index; one of torch files counts only where there is no safetensors file at all."""
    if not folder.is_dir():
        return None
    present = sorted(p.name for p in folder.iterdir())
    found = {n: m for n in present if (m := INDEX.fullmatch(n))}
    modern = any(n.endswith(".safetensors") and n != ADAPTER for n in present)
    kind = "safetensors" if modern or any(m["kind"] == "safetensors" for m in found.values()) else "bin"
    names = [n for n, m in found.items() if m["kind"] == kind]
    plain = [n for n in names if found[n]["stem"] in STANDARD and not found[n]["variant"]]
    whole = any(f"{stem}.{kind}" in present for stem in STANDARD)
    chosen = plain or [n for n in names if not (whole and found[n]["variant"])]
    if len(chosen) > 1:
        raise FormatError(f"'{folder}' has {len(chosen)} indexes: {', '.join(chosen)}.", "keep one of them.")
    return chosen[0] if chosen else None


def index_name(stem: str) -> str:
    """What libraries call the index of shards named `stem`-00001-of-…; that of a variant names it at the end."""
    known = next((s for s in STANDARD if stem.startswith(f"{s}.")), None)
    if known is None:
        return f"{stem}.safetensors.index.json"
    return f"{known}.safetensors.index.{stem.removeprefix(f'{known}.')}.json"


def _weight_map(path: Path) -> dict[str, str]:
    table = read_json(path)
    weight_map = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise FormatError(f"'{path}' has no weight_map from tensor names to file names.", "download it again.")
    return weight_map


def _indexed(folder: Path, index: str) -> list[str]:
    """The files that an index.json names, each checked to be inside the folder and there."""
    names = sorted(set(_weight_map(folder / index).values()))
    for name in names:
        inside(folder, folder / index, name)
        if len(PurePosixPath(name).parts) != 1 or Path(name).suffix not in (".safetensors", *PICKLES):
            raise FormatError(
                f"'{folder / index}' names the shard '{name}', which is not a weight file of its folder.",
                "download the model again.",
            )
        if not (folder / name).is_file():
            raise FormatError(f"'{folder / index}' names the shard '{name}', which is not there.", "download it.")
    return names


def _check_index(root: Path, folder: PurePosixPath, files: Mapping[str, TensorFile]) -> None:
    """Refuse an index whose files do not hold what it says."""
    index = _index_in(root / folder)
    for tensor, name in _weight_map(root / folder / index).items() if index else ():
        file = files.get((folder / name).as_posix())
        if file is None or (tensor not in file.specs and tensor not in file.ties):
            raise FormatError(
                f"'{root / folder / str(index)}' says that tensor '{tensor}' is in '{name}', and it is not.",
                "download the model again.",
            )


def inside(root: Path, said_by: Path, relative: str) -> PurePosixPath:
    """Refuse a path that leaves `root`, by `..`, by being absolute, or through a link (but the hub cache's).

    Raises:
        FormatError: it leaves the folder.
    """
    path = PurePosixPath(relative)
    escape = path.is_absolute() or ".." in path.parts or "\\" in relative or "\0" in relative
    if not escape and (root / path).exists():
        escape = not lawful(root, root / path)
    if escape:
        raise FormatError(f"'{said_by}' points outside its folder: '{relative}'.", "do not use this model.")
    return path


def lawful(root: Path, path: Path) -> bool:
    """Whether `path`, links followed, lies inside `root`, or is a blob of the hub cache that `root` is part of."""
    target, home = path.resolve(), root.resolve()
    if target.is_relative_to(home):
        return True
    # The hub cache lays out models--org--name/{snapshots/<revision>/..., blobs/<hash>}: snapshots link to blobs.
    for parent in home.parents:
        if parent.name == "snapshots":
            return target.is_relative_to(parent.parent / "blobs")
    return False


def read_json(path: Path) -> Any:
    """The value of a small JSON file.

    Raises:
        FormatError: it cannot be read, is not JSON, or names something twice.
    """
    try:
        if path.stat().st_size > _INDEX_LIMIT:
            raise ValueError("it is larger than 100 MB")
        return parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FormatError(f"'{path}' is not valid JSON: {str(error)[:120]}.", "download it again.") from error
