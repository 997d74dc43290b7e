"""Writing a `Checkpoint`: the base's layout, its side files, a model card, and every tensor streamed in place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.card import write_side_files
from taskvec.checkpoint.durable import write_durably
from taskvec.checkpoint.files import index_name
from taskvec.checkpoint.output import (
    OutputFile,
    Part,
    Poll,
    Unit,
    WrittenFiles,
    header_bytes,
    never,
    worker_count,
    written,
)
from taskvec.checkpoint.progress import Progress, unseen
from taskvec.checkpoint.source import AbstractSource, Home, unit_bits, units
from taskvec.checkpoint.staging import Staging
from taskvec.checkpoint.written import Written
from taskvec.errors import DestinationError, ParameterError

if TYPE_CHECKING:
    import numpy as np

    from taskvec.checkpoint.checkpoint import Checkpoint

CHUNK = 1 << 20  # entries read, computed and written at a time
TensorPlan = Sequence[tuple[str, Sequence[str]]]  # (file, its tensors in order)


@final
class TensorUnit(Unit):
    """One tensor of a source, written as it is read."""

    def __init__(self, source: AbstractSource, name: str, key: str) -> None:
        self.name, self._key, self._source = name, key, source
        self.nbytes = source.specs[name].nbytes

    def prepare(self) -> None:
        """See the base class."""
        self._source.hash_inputs(self.name)

    def parts(self, poll: Poll = never) -> Sequence[Part]:
        """See the base class: the size is known from the header."""
        return (Part(self._key, self._source.specs[self.name]),)

    def emit(self, write: Callable[[str, np.ndarray[Any, Any]], None]) -> None:
        """See the base class."""
        from taskvec.ops.scratch import scratch

        spec = self._source.specs[self.name]
        for start in range(0, units(spec), CHUNK):
            out = scratch("save", min(CHUNK, units(spec) - start), unit_bits(spec.dtype))
            self._source.read_into(out, self.name, start)
            write(self._key, out)
        self.prepare()


def save_checkpoint(
    checkpoint: Checkpoint,
    path: str | Path,
    *,
    force: bool = False,
    dtype: str | None = None,
    shard_size: int | str | None = None,
    threads: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    allow_nonfinite: bool = False,
    progress: Progress = unseen,
) -> Path:
    """Stream `checkpoint` to `path`, in the layout of the files its base was read from.

    Args:
        checkpoint: the point to write.
        path: the destination; a folder, or a single `.safetensors` file if the base was one or is in memory.
        force: replace what is there, atomically.
        dtype: write the floating-point tensors in this dtype instead of the base's.
        shard_size: largest bytes of data a file ("5GB" or a number); default: the base's shards.
        threads: workers; default: one a processor.
        recipe: what made this model, as plain data, for the metadata and the card.
        allow_nonfinite: write NaN and Inf instead of refusing them.
        progress: called with (name of the step, bytes done, bytes in all), from any thread.

    Returns:
        The destination.

    Raises:
        DestinationError: it exists already, is being written by another process, or does not fit on the disk.
        SchemaError: a vector in the checkpoint was cut from another base.
        NonFiniteError: NaN or Inf in an input or the result.
    """
    destination, workers = Path(os.path.abspath(path)), worker_count(threads)
    source = type(checkpoint).prepare(checkpoint, dtype, allow_nonfinite)
    single = _is_single(source.home, destination)
    recipes = _Recipes(source, recipe)
    files = _output_files(source, _layout(source, destination, single, shard_size), recipes)
    inputs = source.inputs()
    known = None if inputs is None else (inputs, dtype, allow_nonfinite, recipes.draft)
    needs = sum(f.reserve + f.expected for f in files)
    options: Any = {"force": force, "threads": workers, "progress": progress, "needs": needs}
    with written(destination, files, check=source.check, inputs=known, **options) as (staging, found):
        if single:
            staging.publish(staging.folder / files[0].name)
        else:
            _write_indexes(staging.folder, found)
            write_side_files(source, staging.folder, recipes.final())
            staging.publish(staging.folder)
    return destination


def check_destination(
    source: AbstractSource, path: str | Path, *, force: bool, shard_size: int | str | None, nbytes: int
) -> None:
    """Refuse what `save_checkpoint` would refuse of a destination, for `nbytes` of data; writes nothing.

    Raises:
        DestinationError: it exists already, its folder does not, or the disk is too full.
        ParameterError: a single file for what is a folder, or a single file in shards.
    """
    destination = Path(os.path.abspath(path))
    _layout(source, destination, _is_single(source.home, destination), shard_size)
    Staging(destination, plan=None, force=force).check()
    free = shutil.disk_usage(destination.parent).free
    if nbytes > free:
        raise DestinationError(
            f"'{destination}' needs {nbytes:,} bytes and the disk has {free:,} free.",
            "free some space, or choose another disk.",
        )


@final
class _Recipes:
    """The recipe as it will be, with fingerprints still blank (for sizes), and as it is when all was read."""

    def __init__(self, source: AbstractSource, given: Mapping[str, Any] | None) -> None:
        self._source, self._given = source, dict(given or {})
        self.draft = source.recipe(blank=True) | self._given

    def final(self) -> dict[str, Any]:
        return self._source.recipe(blank=False) | self._given


def _is_single(home: Home | None, destination: Path) -> bool:
    file = destination.suffix == ".safetensors"
    if home is not None and not home.single and file:
        raise ParameterError(
            f"'{destination.name}' names a single file, and the base is a folder with config and tokenizer.",
            "choose a folder as the destination.",
        )
    return file


def _layout(source: AbstractSource, destination: Path, single: bool, shard_size: int | str | None) -> TensorPlan:
    if shard_size is not None and single:
        raise ParameterError("a single file cannot be sharded.", "choose a folder as the destination.")
    if source.home is None or single:
        layout: TensorPlan = [(destination.name if single else "model.safetensors", list(source.specs))]
    else:
        layout = [(_safetensors_name(file), names) for file, names in source.home.shards.items()]
    return layout if shard_size is None else list(_reshard(source, layout, parse_size(shard_size)))


def _safetensors_name(relative: str) -> str:
    path = PurePosixPath(relative)
    if path.suffix == ".safetensors":
        return relative
    stem = path.stem.removeprefix("pytorch_") if path.stem.startswith("pytorch_model") else path.stem
    return (path.parent / f"{stem}.safetensors").as_posix()


def _output_files(source: AbstractSource, layout: TensorPlan, recipes: _Recipes) -> list[OutputFile]:
    return [_output_file(source, file, names, recipes) for file, names in layout]


def _output_file(source: AbstractSource, file: str, names: Sequence[str], recipes: _Recipes) -> OutputFile:
    folder = PurePosixPath(file).parent.as_posix()
    prefix = "" if folder == "." else folder + "/"
    tensors = [TensorUnit(source, n, n.removeprefix(prefix)) for n in names]
    ties = {a.removeprefix(prefix): kept.removeprefix(prefix) for a, kept in source.ties.items() if kept in names}

    def metadata(recipe: Mapping[str, Any]) -> dict[str, str]:
        return {**_own_metadata(source, file), **ties, "taskvec_recipe": json.dumps(recipe, sort_keys=True)}

    at, places = 0, []
    for tensor in tensors:
        (part,) = tensor.parts()
        places.append(Written(part.key, part.spec, at, at + part.spec.nbytes, ""))
        at += part.spec.nbytes
    reserve = len(header_bytes(places, metadata(recipes.draft)))
    return OutputFile(file, tensors, lambda _written, _notes: metadata(recipes.final()), reserve, expected=at)


def _own_metadata(source: AbstractSource, file: str) -> Mapping[str, str]:
    """The string table of the base's file ("format": "pt", which transformers insists on, when it had none)."""
    own = source.home.metadata.get(file) if source.home else None
    return own or {"format": "pt"}


def _reshard(source: AbstractSource, layout: TensorPlan, limit: int) -> Iterator[tuple[str, Sequence[str]]]:
    """Cut each folder's tensors, in order, into files of at most `limit` bytes of data (a larger tensor is alone)."""
    folders: dict[str, list[str]] = {}
    stems: dict[str, str] = {}
    for file, names in layout:
        path = PurePosixPath(file)
        folders.setdefault(path.parent.as_posix(), []).extend(names)
        stems.setdefault(path.parent.as_posix(), path.stem.split("-0")[0])
    for folder, names in folders.items():
        shards: list[list[str]] = [[]]
        size = 0
        for name in names:
            nbytes = source.specs[name].nbytes
            if shards[-1] and size + nbytes > limit:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size += nbytes
        for i, shard in enumerate(shards, 1):
            tail = f"-{i:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
            yield (PurePosixPath(folder) / f"{stems[folder]}{tail}.safetensors").as_posix(), shard


def _write_indexes(folder: Path, written: WrittenFiles) -> None:
    """An index for every folder that has more than one file of tensors."""
    by_folder: dict[PurePosixPath, list[str]] = {}
    for file in written:
        by_folder.setdefault(PurePosixPath(file).parent, []).append(file)
    for parent, files in by_folder.items():
        if len(files) < 2:
            continue
        parts = [(p, PurePosixPath(f).name) for f in files for unit in written[f].values() for p in unit]
        total = sum(p.end - p.begin for p, _ in parts)
        stem = PurePosixPath(files[0]).stem.split("-0")[0]
        stem = stem if all(PurePosixPath(f).stem.startswith(stem) for f in files) else "model"
        table = {
            "metadata": {"total_size": total},
            "weight_map": {p.key: f for p, f in sorted(parts, key=lambda x: x[0].key)},
        }
        text = json.dumps(table, indent=2) + "\n"
        write_durably(folder / parent / index_name(stem), text)


def parse_size(size: int | str) -> int:
    """Bytes from a number or from "500MB", "5GB", "2GiB".

    Raises:
        ParameterError: not a size, or not positive.
    """
    text = str(size).strip().upper().removesuffix("B")
    scales = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "K": 10**3, "M": 10**6, "G": 10**9, "": 1}
    for unit, scale in scales.items():
        if (unit and text.endswith(unit)) or not unit:
            try:
                value = float(text.removesuffix(unit)) * scale
            except ValueError:
                break
            if 1 <= value < 1 << 63:
                return int(value)
            break
    raise ParameterError(f"'{size}' is not a size in bytes.", "write it like 500MB, 5GB or 2GiB.")
