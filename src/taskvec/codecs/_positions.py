"""The ascending positions of a sparse delta or of patches, read from a file that may lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from taskvec.checkpoint.source import TensorSpec
from taskvec.errors import FormatError
from taskvec.ops.dtypes import DTYPES, DType

if TYPE_CHECKING:
    import numpy as np

    from taskvec.codecs._codec import PartReader


def position_dtype(numel: int) -> DType:
    """The dtype of flat positions in a tensor of that many entries."""
    return DTYPES["I32"] if numel < 1 << 31 else DTYPES["I64"]


def position_kind(numel: int) -> Any:
    """The numpy type of `position_dtype`."""
    import numpy as np

    return np.int32 if position_dtype(numel).code == "I32" else np.int64


def positions_spec(numel: int, count: int) -> TensorSpec:
    """The spec of `count` positions in a tensor of `numel` entries."""
    return TensorSpec((count,), position_dtype(numel))


@final
class Positions:
    """The part `positions`, checked once to ascend and to stay inside the tensor."""

    def __init__(self, part: PartReader) -> None:
        self._part, self._count, self._checked = part, part.part_spec("positions").numel, False

    def between(self, start: int, stop: int) -> tuple[int, int, np.ndarray[Any, Any]]:
        """(first, last, positions[first:last] - start) for the positions in [start, stop).

        Raises:
            FormatError: positions that do not ascend or lie outside the tensor.
        """
        import numpy as np

        positions = self._part.bits("positions", 0, self._count)
        if not self._checked:
            ordered = bool((positions[1:] > positions[:-1]).all())
            if not ordered or (self._count and int(positions[-1]) >= self._part.spec.numel):
                raise FormatError(f"the positions of a delta do not ascend within its {self._part.spec.numel} entries.")
            self._checked = True
        first, last = np.searchsorted(positions, np.array([start, stop], positions.dtype)).tolist()
        return first, last, (positions[first:last] - positions.dtype.type(start)).astype(np.int64)
