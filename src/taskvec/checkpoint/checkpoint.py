"""`Checkpoint`: a point in weight space, lazy. Subtracting one from another gives a `TaskVector`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from taskvec.checkpoint.fingerprint import Fingerprints
from taskvec.checkpoint.source import AbstractSource, MemorySource, TensorSpec, units
from taskvec.errors import SpaceError

if TYPE_CHECKING:
    import torch

    from taskvec.checkpoint.layout import Layout
    from taskvec.vector import TaskVector


@final
class Checkpoint:
    """A model's weights as a lazy table of tensors. Nothing is read until a tensor is asked for or written.

        tuned - base     the TaskVector that leads from base to tuned
        base + vector    the Checkpoint where the vector leads (also base - vector)

    Two checkpoints have no sum. Names are opaque: any two models with equal names and shapes work.
    """

    __slots__ = ("fingerprints", "source")

    # Filled by the modules to the right, so that this one need not know them.
    subtract: ClassVar[Callable[[Checkpoint, Checkpoint], TaskVector]]
    displace: ClassVar[Callable[[Checkpoint, Any, float], Checkpoint]]
    adapt: ClassVar[Callable[[Checkpoint, Path], Checkpoint]]
    prepare: ClassVar[Callable[[Checkpoint, str | None, bool], AbstractSource]]

    def __init__(self, source: AbstractSource) -> None:
        self.source = source
        self.fingerprints = Fingerprints(source)

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Open a file, a folder, a hub id (`org/name`, `org/name@revision`) or `base+adapter`; reads headers only.

        Raises:
            FormatError: nothing that holds weights, or files that break their format.
            SpaceError: a LoRA adapter alone, which is a displacement, not a point.
        """
        from taskvec.checkpoint.open import open_checkpoint

        return open_checkpoint(cls, path)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
        """The checkpoint of tensors in memory, e.g. `model.state_dict()`; names that share storage stay tied."""
        return cls(MemorySource(tensors))

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Shape and dtype of each tensor, in on-disk order; costs no read."""
        return self.source.specs

    def names(self) -> list[str]:
        """The names of all tensors, in on-disk order."""
        return list(self.source.specs)

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor `name` in its own dtype, as a fresh copy.

        Raises:
            UnknownName: no such tensor.
        """
        import torch

        name = self.source.ties.get(name, name)
        spec = self.source.spec(name)
        if spec.dtype.torch is None:
            raise SpaceError(f"tensor '{name}' is {spec}, which torch has no dtype for.", "read its bits from .source.")
        raw = self.source.bits(name, 0, units(spec)).copy()
        if not raw.size:
            return torch.empty(spec.shape, dtype=getattr(torch, spec.dtype.torch))
        return torch.from_numpy(raw.view("u1")).view(getattr(torch, spec.dtype.torch)).reshape(spec.shape)

    def __contains__(self, name: object) -> bool:
        return name in self.source.specs or name in self.source.ties

    def __len__(self) -> int:
        return len(self.source.specs)

    def fingerprint(self) -> str:
        """The content fingerprint "tv1:…"; reads every tensor once, then comes from the cache."""
        return self.fingerprints.whole()

    def layout(self, override: str | Path | None = None, *, splits: str | None = None) -> Layout:
        """The role of each tensor (matrix, other, skip) and its splits.

        `override` is a small YAML file; `splits="fused-qkv"` splits fused projections (see `Layout.of`).

        Raises:
            ParameterError: the file says something that it cannot say, or no such splits.
        """
        from taskvec.checkpoint.layout import Layout

        return Layout.of(self.source.specs, override=override, splits=splits)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Stream this checkpoint to `path`; see `taskvec.checkpoint.save.save_checkpoint` for the options.

        Raises:
            DestinationError: `path` exists (and not force), or does not fit on the disk.
            SchemaError: a vector in it was cut from another base.
            NonFiniteError: NaN or Inf in what is read or written.
        """
        from taskvec.checkpoint.save import save_checkpoint

        return save_checkpoint(self, path, **options)

    def __sub__(self, other: object) -> Any:
        if isinstance(other, Checkpoint):
            return Checkpoint.subtract(self, other)
        return Checkpoint.displace(self, other, -1.0)

    def __add__(self, other: object) -> Checkpoint:
        if isinstance(other, Checkpoint):
            raise SpaceError(
                "Checkpoint + Checkpoint is not defined: two points have no sum.",
                "subtract the base first, e.g. base + (a - base) + (b - base).",
            )
        return Checkpoint.displace(self, other, 1.0)

    def __radd__(self, other: object) -> Checkpoint:
        if other == 0 and isinstance(other, int):
            raise SpaceError("sum() of checkpoints is not defined: points have no sum.", "sum task vectors instead.")
        return self + other

    def __rsub__(self, other: object) -> Checkpoint:
        raise SpaceError(
            f"{type(other).__name__} - Checkpoint is not defined.",
            "subtract two checkpoints (tuned - base), or a vector from a checkpoint (base - vector).",
        )

    def __mul__(self, other: object) -> Checkpoint:
        raise SpaceError(
            "a Checkpoint has no multiple: it is a point.", "scale a task vector, e.g. base + 0.5 * (tuned - base)."
        )

    __rmul__ = __mul__
    __truediv__ = __mul__

    def __neg__(self) -> Checkpoint:
        raise SpaceError("-Checkpoint is not defined: a point has no opposite.", "negate a task vector instead.")

    def __repr__(self) -> str:
        size = sum(s.nbytes for s in self.specs.values())
        return f"<Checkpoint {self.source.describe()}: {len(self)} tensors, {size:,} bytes>"
