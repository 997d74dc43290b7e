"""Deltas that are stored as two thin factors: a tensor as a matrix, and the decoder that multiplies range by range."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, final

from taskvec.checkpoint.source import TensorSpec
from taskvec.codecs._codec import AbstractDecoder, PartReader
from taskvec.delta import Factors

if TYPE_CHECKING:
    from taskvec.ops.bits import Floats

_HELD = 8  # decoders, of all files, whose factors stay decoded: a few a worker
_holding: deque[weakref.ref[FactorsDecoder]] = deque()
_lock = threading.Lock()


def matrix_shape(spec: TensorSpec) -> tuple[int, int]:
    """A tensor as a matrix: its first dimension, and the product of the others."""
    return (spec.shape[0] if spec.shape else 1), math.prod(spec.shape[1:])


@final
class FactorsDecoder(AbstractDecoder):
    """A product of two factors, which `read` gives; they are kept while this decoder is among the last used."""

    def __init__(self, read: Callable[[], Factors]) -> None:
        self._read = read
        self._factors: Factors | None = None

    def factors(self) -> Factors:
        """See the base class."""
        found = self._factors
        if found is None:
            found = self._factors = self._read()
            _hold(self)
        return found

    def forget(self) -> None:
        """Let the factors go; they are read again when they are wanted."""
        self._factors = None

    def add_to(self, total: Floats, coefficient: float, start: int) -> None:
        """See the base class."""
        from taskvec.ops.bits import add_scaled_product

        add_scaled_product(total, coefficient, *self.factors(), start)


def floats(part: PartReader, role: str) -> Floats:
    """A part of a floating dtype as float64, in its own shape."""
    from taskvec.ops.bits import Block, decode

    spec = part.part_spec(role)
    return decode(Block(part.bits(role, 0, spec.numel), spec.dtype)).reshape(spec.shape)


def _hold(decoder: FactorsDecoder) -> None:
    with _lock:
        _holding.append(weakref.ref(decoder))
        while len(_holding) > _HELD:
            oldest = _holding.popleft()()
            if oldest is not None:
                oldest.forget()
