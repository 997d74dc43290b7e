"""Linear algebra on one thread, so that its last bits depend on no processor count; workers are the parallelism."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_guard = threading.Lock()
_state = {"inside": 0, "before": 1}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch and the libraries below it use nothing but the calling thread; any number of workers may be inside.

    The setting of before comes back when the last of them leaves.
    """
    import torch

    with _guard:
        if not _state["inside"]:
            _state["before"] = torch.get_num_threads()
        _state["inside"] += 1
        torch.set_num_threads(1)  # by every thread: OpenMP keeps a number for each
    try:
        yield
    finally:
        with _guard:
            _state["inside"] -= 1
            if not _state["inside"]:
                torch.set_num_threads(_state["before"])
