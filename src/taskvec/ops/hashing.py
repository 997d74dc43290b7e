"""Content hashes: BLAKE3 of the raw little-endian bytes, in hexadecimal, 128 bits."""

from typing import Any

from blake3 import blake3

HEX = 32  # hexadecimal digits of every hash that taskvec writes
_STEP = 1 << 24


class Hasher:
    """BLAKE3 over a stream of buffers."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = blake3()

    def update(self, data: Any) -> None:
        """Feed any C-contiguous buffer (the interpreter lock is released while it is hashed)."""
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _STEP):
            self._state.update(view[at : at + _STEP])

    def hexdigest(self) -> str:
        """The hash of everything fed so far."""
        return self._state.hexdigest(length=HEX // 2)


def hash_of(*buffers: Any) -> str:
    """The hash of the concatenated buffers (bytes, or anything C-contiguous)."""
    state = Hasher()
    for data in buffers:
        state.update(data)
    return state.hexdigest()
