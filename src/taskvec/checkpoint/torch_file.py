"""One torch file (`.bin`, `.pt`, `.pth`, `.ckpt`), read by torch's restricted loader and by nothing else.

A pickle is a program. `weights_only` runs none of it beyond building tensors and plain containers; whatever that
loader refuses is refused here. Zip files are mapped, so opening reads the table of tensors and not their data; the
legacy format, from before torch 1.6, has to be read whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.source import TensorSpec, distinct, stat_key, tensor_bits
from taskvec.errors import FormatError

if TYPE_CHECKING:
    import torch

    from taskvec.ops.bits import Bits

_ZIP = b"PK\x03\x04"


@final
class TorchFile:
    """The tensors of one torch file. Names that share storage, shape and strides are ties.

    Raises:
        FormatError: the file is damaged, needs code to be run, or holds no single table of tensors.
    """

    __slots__ = ("_stat", "_tensors", "metadata", "path", "specs", "ties")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: Mapping[str, str] = {}
        try:
            self._stat = stat_key(path)
            loaded = _load(path)
        except OSError as error:
            raise FormatError(f"'{path}' cannot be read: {error.strerror or error}.") from error
        table = _state_dict(path, loaded)
        self._tensors: Mapping[str, torch.Tensor]
        self.specs: Mapping[str, TensorSpec]
        self.ties: Mapping[str, str]
        try:
            self._tensors, self.specs, self.ties = distinct(table)
        except FormatError as error:
            raise FormatError(f"in '{path}', {error.fact}", error.fix) from error

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """Entries [start, stop) of the flattened tensor `name`; copied only where the tensor is not contiguous."""
        return tensor_bits(self._tensors[name], self.specs[name], start, stop)

    def identity(self, name: str) -> tuple[object, ...]:
        """Equal tuples mean equal bytes: the file's inode, size and times, and the tensor's name."""
        return (*self._stat, name)


def _load(path: Path) -> Any:
    """What the restricted loader makes of the file.

    Raises:
        FormatError: it refused, or the file is damaged. OSError: the file cannot be read.
    """
    import torch

    with path.open("rb") as file:
        mapped = file.read(4) == _ZIP
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can make the unpickler raise anything at all
        reason = " ".join(str(error).split())
        raise FormatError(
            f"'{path}' cannot be loaded without running code from it, or is damaged; no code was run. "
            f"The restricted loader says: {reason[:200] or type(error).__name__}.",
            "if you trust its author, load it once with torch in a sandbox and save its state dict with "
            "safetensors.torch.save_file.",
        ) from error


def _state_dict(path: Path, loaded: object) -> dict[str, torch.Tensor]:
    """The one table of tensors in what was loaded: all of it, or the only such table one level down."""
    if not isinstance(loaded, Mapping):
        raise FormatError(f"'{path}' holds a {type(loaded).__name__}, not a table of tensors.", "save a state dict.")
    if _is_table(loaded):
        return dict(loaded)
    if not any(_is_tensor(v) for v in loaded.values()):
        nested = [key for key, value in loaded.items() if _is_table(value)]
        if len(nested) == 1:
            return dict(loaded[nested[0]])
        if nested:
            raise FormatError(
                f"'{path}' holds several tables of tensors: {', '.join(repr(k) for k in nested)}.",
                "save the one you mean as a file of its own.",
            )
        raise FormatError(f"'{path}' holds no tensors.", "save a state dict.")
    odd, value = next((k, v) for k, v in loaded.items() if not (isinstance(k, str) and _is_tensor(v)))
    raise FormatError(
        f"'{path}' holds {odd!r}, a {type(value).__name__}, among its tensors.",
        "save the tensors alone.",
    )


def _is_table(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and _is_tensor(v) for k, v in value.items())
    )


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
