"""Buffers that a thread uses again: fresh megabytes cost a page fault every 4 kB, more than the arithmetic on them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

_local = threading.local()


def scratch(purpose: str, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array of `size` undefined entries, valid until this thread asks again for the same purpose.

    It must not outlive the caller's work: nothing that is returned or kept may be a view of it.
    """
    kind = np.dtype(dtype)
    buffers: dict[str, npt.NDArray[np.uint8]] = _local.__dict__
    buffer = buffers.get(purpose)
    if buffer is None or buffer.size < size * kind.itemsize:
        buffer = buffers[purpose] = np.empty(size * kind.itemsize, np.uint8)
    return buffer[: size * kind.itemsize].view(kind)
