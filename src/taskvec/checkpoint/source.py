"""Where the bits of a model come from: an ordered table name → (shape, dtype), read in ranges of entries."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.errors import SchemaError, UnknownName
from taskvec.ops.dtypes import DType

if TYPE_CHECKING:
    import torch

    from taskvec.ops.bits import Bits, Block


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
    """

    specs: Mapping[str, TensorSpec]
    home: Home | None = None
    ties: Mapping[str, str] = {}

    @abc.abstractmethod
    def bits(self, name: str, start: int, stop: int) -> Bits:
        """Entries [start, stop) of the flattened tensor as unsigned integers of its width; do not write to them.

        Packed sub-byte dtypes are read as bytes: there, start and stop count bytes.
        """

    def block(self, name: str, start: int, stop: int) -> Block:
        """The same entries together with their dtype, as the kernels of `ops.bits` take them."""
        from taskvec.ops.bits import Block

        return Block(self.bits(name, start, stop), self.specs[name].dtype)

    def identity(self, name: str) -> tuple[object, ...] | None:
        """Equal tuples mean equal bytes, without reading any (file, inode, size, time, offset); None: unknown."""
        return None

    def inputs(self) -> tuple[object, ...] | None:
        """What identifies all that this source reads, for resuming a run; None when it cannot be identified."""
        identities = tuple((name, self.identity(name)) for name in self.specs)
        return None if any(identity is None for _, identity in identities) else identities

    def recipe(self, *, blank: bool) -> dict[str, object]:
        """How this model came to be, as plain data; `blank` puts zeros for hashes that would need a read."""
        return {}

    def spec(self, name: str) -> TensorSpec:
        """The spec of `name`.

        Raises:
            UnknownName: no such tensor.
        """
        if name not in self.specs:
            raise UnknownName.among(f"no tensor named '{name}' in {self.describe()}.", name, self.specs)
        return self.specs[name]

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
        from taskvec.ops.dtypes import dtype_of

        self.home = home
        self._tensors: dict[str, torch.Tensor] = {}
        self.specs = {}
        self.ties = {}
        first: dict[tuple[object, ...], str] = {}
        for name, tensor in tensors.items():
            where = _storage_key(tensor)
            if where is not None and where in first:
                self.ties[name] = first[where]
                continue
            if where is not None:
                first[where] = name
            self._tensors[name] = tensor.detach()
            self.specs[name] = TensorSpec(tuple(tensor.shape), dtype_of(tensor.dtype))

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """See the base class. Only the range is copied, and only when the tensor is not contiguous."""
        import torch

        spec = self.spec(name)
        flat = self._tensors[name]
        flat = flat.reshape(-1)[start:stop] if flat.is_contiguous() else flat.flatten()[start:stop]
        raw: Bits = flat.contiguous().cpu().view(torch.uint8).numpy().view(unit_bits(spec.dtype))
        return raw


def _storage_key(tensor: torch.Tensor) -> tuple[object, ...] | None:
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return None
    pointer = tensor.untyped_storage().data_ptr()
    return (pointer, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


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
