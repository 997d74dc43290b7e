"""The two halves of a codec, and the registry: a codec is its file, nothing else has to be edited."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from taskvec.checkpoint.output import Poll, never
from taskvec.checkpoint.source import TensorSpec
from taskvec.delta import BLOCK, Factors
from taskvec.errors import FormatError, ParameterError, UnknownName
from taskvec.ops.dtypes import DType, dtype_of
from taskvec.vector import TaskVector

if TYPE_CHECKING:
    import numpy as np

    from taskvec.ops.bits import Bits, Floats

Write = Callable[[str, "np.ndarray[Any, Any]"], None]  # (role, data), in order within a role


class AbstractEncoder(abc.ABC):
    """One delta on its way to the disk: `measure` (which may scan it), then `emit`, then `fields`."""

    kind: str  # the codec that the table of tensors will name; may be `zero` or `dense` where that is smaller
    exact: bool = False

    @abc.abstractmethod
    def measure(self, poll: Poll) -> Mapping[str, TensorSpec]:
        """The parts by role; sets `kind` and `exact`. A scan calls `poll` at every block."""

    @abc.abstractmethod
    def emit(self, write: Write) -> None:
        """Produce the data of every part."""

    def fields(self) -> Mapping[str, Any]:
        """What else the table of tensors says (`group`, `error`, …), known after `emit`; of bounded length."""
        return {}


class AbstractDecoder(abc.ABC):
    """One delta on its way back. `part(role)` gives the bit patterns of a part, checked against its hash."""

    @abc.abstractmethod
    def add_to(self, total: Floats, coefficient: float, start: int) -> None:
        """`total += coefficient * delta[start : start + total.size]`, in float64."""

    def factors(self) -> Factors | None:
        """The delta as a product of two thin matrices, where that is how it is stored."""
        return None

    def restore(self, out: Bits, start: int) -> None:
        """Write the patches of an exact delta over base + delta (see docs/format.md, section 2.3)."""


class PartReader(abc.ABC):
    """What a decoder may ask of the file that it reads from."""

    spec: TensorSpec  # of the tuned tensor
    fields: Mapping[str, Any]

    @abc.abstractmethod
    def roles(self) -> frozenset[str]:
        """The roles of the parts that are there."""

    @abc.abstractmethod
    def part_spec(self, role: str) -> TensorSpec:
        """Shape and dtype of a part."""

    @abc.abstractmethod
    def bits(self, role: str, start: int, stop: int) -> Bits:
        """Entries [start, stop) of a part as unsigned integers of its width; the part's hash has been checked."""


class AbstractCodec(abc.ABC):
    """A frozen dataclass of parameters with `encoder` and `decoder`; registered under its class attribute `name`."""

    name: ClassVar[str]
    widest: ClassVar[Mapping[str, Any]] = {"error": "0.000000e-000", "group": BLOCK}  # the longest `fields`

    @property
    def exact(self) -> bool:
        """Whether a tuned checkpoint is restored bit for bit from its base."""
        return False

    @abc.abstractmethod
    def encoder(self, vector: TaskVector, name: str, *, allow_nonfinite: bool) -> AbstractEncoder:
        """The encoder for one tensor of `vector`."""

    def encoders(
        self, vector: TaskVector, *, allow_nonfinite: bool, threads: int = 1
    ) -> Callable[[str], AbstractEncoder]:
        """What makes the encoder of each tensor; choices that depend on the whole vector are made here."""
        return lambda name: self.encoder(vector, name, allow_nonfinite=allow_nonfinite)

    def check(self, vector: TaskVector) -> None:
        """Refuse a vector that this codec cannot hold, before anything is written."""

    @abc.abstractmethod
    def bound(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        """The largest parts that `encoder` may make of a tensor, by role: what room the header needs."""

    @classmethod
    @abc.abstractmethod
    def decoder(cls, part: PartReader) -> AbstractDecoder:
        """The decoder for one tensor.

        Raises:
            FormatError: parts that do not fit the tensor.
        """

    def describe(self) -> dict[str, Any]:
        """Name and parameters, as plain data."""
        return {"name": self.name, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}}  # type: ignore[arg-type]


_codecs: dict[str, type[AbstractCodec]] = {}


def codec(cls: type[AbstractCodec]) -> type[AbstractCodec]:
    """Class decorator: register a codec under its `name`."""
    if cls.name in _codecs:
        raise ParameterError(f"a codec named '{cls.name}' exists already, in {_codecs[cls.name].__module__}.")
    _codecs[cls.name] = cls
    return cls


def _load() -> None:
    """Import every public module beside this one."""
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if not module.startswith("_"):
            importlib.import_module(f"taskvec.codecs.{module}")


def names() -> list[str]:
    """The names of all codecs."""
    _load()
    return sorted(_codecs)


def get(name: str) -> type[AbstractCodec]:
    """The codec class registered under `name`.

    Raises:
        UnknownName: no such codec.
    """
    _load()
    if name not in _codecs:
        raise UnknownName.among(f"no codec named '{name}'.", name, _codecs)
    return _codecs[name]


def make(name: str, parameters: Mapping[str, Any]) -> AbstractCodec:
    """The codec `name` with `parameters`.

    Raises:
        UnknownName: no such codec. ParameterError: an unknown parameter, or a value out of its range.
    """
    cls = get(name)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]  # codecs are dataclasses
    for key in parameters:
        if key not in known:
            unknown = UnknownName.among(f"codec '{name}' has no parameter '{key}'.", key, known)
            raise ParameterError(unknown.fact, unknown.fix)
    return cls(**parameters)


def blocks(vector: TaskVector, name: str, poll: Poll = never) -> Iterator[Floats]:
    """The delta of `name` in runs of at most 65,536 float64 values."""
    n = vector.specs[name].numel
    for start in range(0, n, BLOCK):
        poll()
        yield vector.values(name, start, min(start + BLOCK, n))


def check_dtype(where: str, name: object) -> DType:
    """A floating-point dtype.

    Raises:
        ParameterError: it is not.
    """
    try:
        dtype = dtype_of(name)
    except FormatError as error:
        raise ParameterError(f"{where}: {error.fact}", error.fix) from error
    if not dtype.moves:
        raise ParameterError(f"{where}={dtype} is not a floating-point type.")
    return dtype


def is_zero(vector: TaskVector, name: str, poll: Poll) -> bool:
    """Whether the delta of `name` is 0 everywhere; reads no further than its first block that is not."""
    return vector.is_zero(name) or not any(block.any() for block in blocks(vector, name, poll))


def check_fraction(where: str, value: object) -> float:
    """A number in (0, 1].

    Raises:
        ParameterError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= 1.0:
        raise ParameterError(f"{where}={value!r} is outside (0, 1].")
    return float(value)
