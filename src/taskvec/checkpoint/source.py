"""Where the bits of a model come from: an ordered table name → (shape, dtype), read in ranges of entries."""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.progress import Progress, unseen
from taskvec.errors import FormatError, SchemaError, UnknownName
from taskvec.ops.dtypes import DTYPES, DType

if TYPE_CHECKING:
    import torch

    from taskvec.ops.bits import Bits, Block

_CODES = {d.torch: d for d in DTYPES.values() if d.torch}


@final
@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of one tensor, known without reading it."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def numel(self) -> int:
        """Number of entries (1 for a 0-d tensor, 0 for an empty one)."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the raw tensor."""
        return self.numel * self.dtype.bits // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@final
@dataclass(frozen=True, slots=True)
class Home:
    """The files a checkpoint was read from: what a writer needs to lay its output out in the same way.

    `path` is the folder or the single file; `shards` maps each tensor file (relative, POSIX) to its tensors in
    on-disk order; `metadata` is each file's own string table; `single` says that `path` is one file.
    """

    path: Path
    shards: Mapping[str, tuple[str, ...]]
    metadata: Mapping[str, Mapping[str, str]]
    single: bool

    @property
    def title(self) -> str:
        """The hub id when the files lie in a hub cache, else the name of the folder or file."""
        for parent in self.path.parents:
            if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
                return parent.parent.name.removeprefix("models--").replace("--", "/")
        return self.path.name


class AbstractSource(abc.ABC):
    """A lazy table of tensors. Reading `specs` costs no tensor.

    `home` is None for what lives in memory or is computed; `ties` maps an alias to the name that holds its data.
    Reading an alias reads the name that it is tied to.
    """

    specs: Mapping[str, TensorSpec]
    home: Home | None = None
    ties: Mapping[str, str] = {}

    @abc.abstractmethod
    def bits(self, name: str, start: int, stop: int) -> Bits:
        """Entries [start, stop) of the flattened tensor as unsigned integers of its width; do not write to them.

        Packed sub-byte dtypes are read as bytes: there, start and stop count bytes.
        """

    def read_into(self, out: Bits, name: str, start: int) -> None:
        """The same for entries [start, start + out.size), into an array of the caller's."""
        out[:] = self.bits(name, start, start + out.size)

    def block(self, name: str, start: int, stop: int) -> Block:
        """The same entries together with their dtype, as the kernels of `ops.bits` take them."""
        from taskvec.ops.bits import Block

        return Block(self.bits(name, start, stop), self.spec(name).dtype)

    def identity(self, name: str) -> tuple[object, ...] | None:
        """Equal tuples mean equal bytes, without reading any (file, inode, size, time, offset); None: unknown."""
        return None

    def inputs(self) -> tuple[object, ...] | None:
        """What identifies all that this source reads, for resuming a run; None when it cannot be identified."""
        identities = tuple((name, self.identity(name)) for name in self.specs)
        return None if any(identity is None for _, identity in identities) else identities

    def check(self, progress: Progress = unseen) -> None:
        """Refuse what the headers cannot show, before anything is written; what takes long says how far it is."""

    def hash_inputs(self, name: str) -> None:
        """Hash what the recipe will want of one tensor, while a worker has its bytes at hand."""

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """How this model came to be, as plain data; `blank` puts zeros for hashes that would need a read."""
        return {}

    def spec(self, name: str) -> TensorSpec:
        """The spec of `name`.

        Raises:
            UnknownName: no such tensor.
        """
        found = self.specs.get(self.ties.get(name, name))
        if found is None:
            raise UnknownName.among(f"no tensor named '{name}' in {self.describe()}.", name, self.specs)
        return found

    def describe(self) -> str:
        """What to call this source in a message."""
        return f"'{self.home.path}'" if self.home else "the model in memory"

    def title(self) -> str:
        """What to call this source in an output: no path of a machine, since equal inputs give equal bytes."""
        return self.home.title if self.home else ""


def units(spec: TensorSpec) -> int:
    """How many units `AbstractSource.bits` counts for a tensor: entries, or bytes for packed sub-byte dtypes."""
    return spec.numel if spec.dtype.itemsize else spec.nbytes


def unit_bits(dtype: DType) -> Any:
    """The numpy dtype of one unit of `AbstractSource.bits`."""
    from taskvec.ops.bits import UINT

    return UINT[dtype.bits if dtype.itemsize else 8]


@final
class MemorySource(AbstractSource):
    """Tensors that are already in memory (a state dict). Names that share storage, shape and strides are ties."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], home: Home | None = None) -> None:
        self.home = home
        self._tensors, self.specs, self.ties = distinct(tensors)

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """See the base class. Only the range is copied, and only when the tensor is not contiguous."""
        return tensor_bits(self._tensors[self.ties.get(name, name)], self.spec(name), start, stop)


def distinct(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, TensorSpec], dict[str, str]]:
    """The tensors that own their data, their specs, and the ties: names that share storage, shape and strides.

    Raises:
        FormatError: a tensor that is not a dense array of a dtype known here; names it.
    """
    kept: dict[str, torch.Tensor] = {}
    specs: dict[str, TensorSpec] = {}
    ties: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        spec = _spec_of(name, tensor)
        where = _storage_key(tensor)
        if where is not None and first.setdefault(where, name) != name:
            ties[name] = first[where]
            continue
        kept[name], specs[name] = tensor.detach(), spec
    return kept, specs, ties


def _spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    import torch

    kind = tensor.device.type if tensor.device.type == "meta" else str(tensor.layout).removeprefix("torch.")
    if kind != "strided" or tensor.is_quantized:
        raise FormatError(
            f"tensor '{name}' is {'quantized' if kind == 'strided' else kind}, not a dense array.",
            "convert it to a dense tensor first.",
        )
    code = str(tensor.dtype).removeprefix("torch.")
    if code not in _CODES:
        raise FormatError(f"tensor '{name}' is {code}, which has no counterpart in safetensors.", "convert it first.")
    if tensor.is_conj() or tensor.is_neg():
        raise FormatError(f"tensor '{name}' is a lazy conjugate or negative.", "call .resolve_conj().resolve_neg().")
    return TensorSpec(tuple(torch.Size(tensor.shape)), _CODES[code])


def _storage_key(tensor: torch.Tensor) -> tuple[object, ...] | None:
    if tensor.numel() == 0:
        return None
    pointer = tensor.untyped_storage().data_ptr()
    return (str(tensor.device), pointer, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def tensor_bits(tensor: torch.Tensor, spec: TensorSpec, start: int, stop: int) -> Bits:
    """Entries [start, stop) of the flattened `tensor` as unsigned integers; copies no more than that range."""
    import torch

    unit = getattr(torch, {1: "int8", 2: "int16", 4: "int32", 8: "int64"}[spec.dtype.itemsize])
    if start >= stop:
        return torch.empty(0, dtype=unit).numpy().view(unit_bits(spec.dtype))
    raw: Bits = _range(tensor.view(unit), start, stop).cpu().numpy().view(unit_bits(spec.dtype))
    return raw


def _range(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Entries [start, stop), start < stop, of a tensor of any strides: whole rows, and parts of the two end rows."""
    import torch

    if tensor.is_contiguous():
        return tensor.view(-1)[start:stop]
    row = tensor[0].numel()
    first, last = start // row, (stop - 1) // row
    if first == last:
        return _range(tensor[first], start - first * row, stop - first * row)
    head = _range(tensor[first], start - first * row, row)
    tail = _range(tensor[last], 0, stop - last * row)
    return torch.cat([head, tensor[first + 1 : last].reshape(-1), tail])


def stat_key(path: Path) -> tuple[object, ...]:
    """What identifies the content of a file without reading it: device, inode, size and times."""
    s = os.stat(path)
    return (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


def check_same_schema(a: AbstractSource, b: AbstractSource, *, names: tuple[str, str]) -> None:
    """Refuse two sources that do not hold the same tensors in the same shapes and of the same kind.

    Float dtypes may differ (a bf16 base and a float32 fine-tune); integer and bool ones may not.

    Raises:
        SchemaError: a name in one only, two shapes, or dtypes that cannot be combined.
    """
    first, second = names
    missing = [n for n in a.specs if n not in b.specs]
    extra = [n for n in b.specs if n not in a.specs]
    if missing or extra:
        name, where, other = (missing[0], first, second) if missing else (extra[0], second, first)
        count = f" ({len(missing)} only in {first}, {len(extra)} only in {second})"
        raise SchemaError(
            f"tensor '{name}' is in {where} but not in {other}{count}.",
            "use two checkpoints of the same architecture; nothing is dropped or filled in silently.",
        )
    for name, spec in a.specs.items():
        other_spec = b.specs[name]
        if spec.shape != other_spec.shape:
            raise SchemaError(
                f"tensor '{name}' is {spec} in {first} and {other_spec} in {second}.",
                "use checkpoints of the same size (for a grown vocabulary, resize the base first).",
            )
        if spec.dtype != other_spec.dtype and not (spec.dtype.moves and other_spec.dtype.moves):
            raise SchemaError(
                f"tensor '{name}' is {spec.dtype} in {first} and {other_spec.dtype} in {second}; "
                "only floating-point types can be combined.",
                "convert one of the two.",
            )
