"""A cache of decompositions on disk, keyed by content: sweeps, subsets of tasks and analyses decompose a delta once.

Off unless asked for, by an argument or by TASKVEC_DECOMPOSITIONS=SIZE ("4GB"), which puts it into taskvec's cache
folder. Results do not depend on it: what is read is, bit for bit, what would be computed (the key holds the bytes of
the matrix, the rank, the route, and what of the machine and the libraries decides the last bit).
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, final

from taskvec.checkpoint.fingerprint import cache_folder
from taskvec.checkpoint.save import parse_size
from taskvec.ops.hashing import hash_of
from taskvec.ops.threads import one_thread

if TYPE_CHECKING:
    import torch

    from taskvec.ops.spectral import Leading

VARIABLE = "TASKVEC_DECOMPOSITIONS"
_VERSION = 1  # of what is computed: another route, another number
_SUFFIX = ".safetensors"
_ROOM = 0.9  # of the limit that is left full when the oldest are removed


@final
class Decompositions:
    """Leading triplets in a folder, at most `limit` bytes of them; the ones that were used longest ago go first.

    Any number of processes may share it: a file appears whole or not at all, and a damaged one counts as absent. What
    it holds was computed on one thread, and so is the same whoever asks.
    """

    def __init__(self, folder: str | Path, *, limit: int | str = "4GB") -> None:
        self.folder, self.limit = Path(folder), parse_size(limit) if isinstance(limit, str) else limit
        self.hits = self.misses = 0
        self._lock = threading.Lock()

    def leading(self, matrix: torch.Tensor, rank: int, *, exact: bool = False) -> Leading:
        """As `spectral.leading_for`, from the folder where it holds it.

        Raises:
            ConvergenceError: no route converges.
        """
        from taskvec.ops.spectral import Leading, leading_for, shelf

        most = min(matrix.shape)
        if not rank or matrix.device.type != "cpu":
            return leading_for(matrix, rank, exact=exact)
        whole = shelf(rank, most)
        path = self.folder / f"{_key(matrix, whole, exact)}{_SUFFIX}"
        found = _read(path)
        with self._lock:
            self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        if found is None:
            with one_thread():
                found = leading_for(matrix, whole, exact=exact)
            if found.triplets.rank:
                self._write(path, found)
        return Leading(found.triplets.top(rank), found.route, found.residual, found.energy)

    def _write(self, path: Path, found: Leading) -> None:
        """Keep it; a full disk or a folder that cannot be written only costs time."""
        from safetensors.torch import save

        tensors = {n: getattr(found.triplets, n).contiguous() for n in "usv"}
        about = {"route": found.route, "residual": repr(found.residual), "hash": _hash(tensors)}
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(save(tensors, about))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            self._make_room()

    def _make_room(self) -> None:
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        for _, size, path in files if total > self.limit else ():
            if total <= _ROOM * self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(last use, bytes, path) of each."""
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process removed it
                stat = path.stat()
                yield stat.st_mtime_ns, stat.st_size, path


@functools.lru_cache(maxsize=8)
def _at(folder: Path, size: str) -> Decompositions:
    return Decompositions(folder, limit=size)


def default() -> Decompositions | None:
    """The cache that TASKVEC_DECOMPOSITIONS asks for, or None.

    Raises:
        ParameterError: it is not a size.
    """
    size = os.environ.get(VARIABLE)
    return _at(cache_folder() / "decompositions", size) if size else None


_current: ContextVar[Decompositions | None] = ContextVar("decompositions", default=None)


@contextmanager
def using(cache: Decompositions | None) -> Iterator[None]:
    """What this thread decomposes within it goes through `cache`; None: through the default one, if there is one."""
    token = _current.set(cache)
    try:
        yield
    finally:
        _current.reset(token)


def leading_of(matrix: torch.Tensor, rank: int, *, exact: bool = False) -> Leading:
    """As `spectral.leading_for`, through a cache where there is one.

    Raises:
        ConvergenceError: no route converges.
    """
    from taskvec.ops.spectral import leading_for

    chosen = _current.get() or default()
    return (chosen.leading if chosen is not None else leading_for)(matrix, rank, exact=exact)


def _key(matrix: torch.Tensor, rank: int, exact: bool) -> str:
    import torch

    machine = (torch.__version__, torch.backends.cpu.get_cpu_capability())
    about = (_VERSION, tuple(matrix.shape), str(matrix.dtype), rank, exact, machine)
    return hash_of(repr(about).encode(), matrix.contiguous().numpy())


def _hash(tensors: dict[str, torch.Tensor]) -> str:
    return hash_of(*(tensors[n].numpy() for n in "usv"))


def _read(path: Path) -> Leading | None:
    """What a file holds, used just now; None where it is not there, or damaged."""
    from safetensors import SafetensorError, safe_open

    from taskvec.ops.spectral import Leading
    from taskvec.ops.triplets import Triplets

    try:
        with safe_open(path, framework="pt") as file:
            tensors, about = {n: file.get_tensor(n) for n in "usv"}, file.metadata()
        if about["hash"] != _hash(tensors):
            return None
        found = Leading(Triplets(*(tensors[n] for n in "usv")), about["route"], float(about["residual"]))
        os.utime(path)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return found
