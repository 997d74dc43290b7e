r"""Which base this is: a hash a tensor and one over all of them, cached by file identity.

    hash of a tensor   BLAKE3-128 of its raw little-endian bytes
    fingerprint        "tv1:" + BLAKE3-128 of the lines "name TAB dtype TAB shape TAB hash", sorted by name

In a name, backslash, TAB and newline are written \\, \t and \n, so that no name can pass for two tensors.
It depends on content alone: not on shards, file names, the order of tensors or metadata.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from taskvec.checkpoint.source import AbstractSource, TensorSpec, units
from taskvec.ops.hashing import HEX, Hasher, hash_of

BLOCK = 1 << 22  # entries hashed at a time
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n"})
BLANK = "tv1:" + "0" * HEX  # stands for a fingerprint where only its length matters
_lock = threading.Lock()


def fingerprint_of(specs: Mapping[str, TensorSpec], hashes: Mapping[str, str]) -> str:
    """The fingerprint of a model from its specs and tensor hashes."""
    lines = (
        f"{n.translate(_ESCAPES)}\t{specs[n].dtype}\t{','.join(map(str, specs[n].shape))}\t{hashes[n]}\n"
        for n in sorted(specs)
    )
    return "tv1:" + hash_of("".join(lines).encode("utf-8", "surrogatepass"))


class Fingerprints:
    """The tensor hashes of one source, computed when asked for and remembered, on disk too where files back it."""

    __slots__ = ("_hashes", "_source", "_stored")

    def __init__(self, source: AbstractSource) -> None:
        self._source = source
        self._hashes: dict[str, str] = {}
        self._stored: dict[str, str] | None = None

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._source.specs)

    def tensor(self, name: str) -> str:
        """The hash of one tensor (reads it unless it is known)."""
        name = self._source.ties.get(name, name)
        known = self._hashes.get(name) or self._cached().get(name)
        if known is None:
            spec = self._source.spec(name)
            state = Hasher()
            for start in range(0, units(spec), BLOCK):
                state.update(self._source.bits(name, start, min(start + BLOCK, units(spec))))
            known = state.hexdigest()
        self._hashes[name] = known
        return known

    def tensors(self) -> dict[str, str]:
        """The hashes of all tensors; what had to be computed is stored in the cache."""
        hashes = {name: self.tensor(name) for name in self._source.specs}
        self.remember()
        return hashes

    def known(self) -> str | None:
        """The fingerprint, if no tensor has to be read for it."""
        hashes = {n: self._hashes.get(n) or self._cached().get(n) for n in self._source.specs}
        if any(h is None for h in hashes.values()):
            return None
        return fingerprint_of(self._source.specs, {n: str(h) for n, h in hashes.items()})

    def whole(self) -> str:
        """The fingerprint; reads every tensor that is not known yet."""
        return fingerprint_of(self._source.specs, self.tensors())

    def remember(self) -> None:
        """Store what is known in the cache of the user; a cache that cannot be written is not an error."""
        path = self._cache_file()
        if path is None or all(self._cached().get(n) == h for n, h in self._hashes.items()):
            return
        with _lock:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
                partial.write_text(json.dumps({**self._cached(), **self._hashes}, sort_keys=True))
                partial.replace(path)
            except OSError:
                return
            self._stored = {**self._cached(), **self._hashes}

    def _cached(self) -> dict[str, str]:
        if self._stored is None:
            path = self._cache_file()
            try:
                stored = json.loads(path.read_text()) if path else {}
                self._stored = {n: h for n, h in stored.items() if n in self._source.specs and _is_hash(h)}
            except (OSError, ValueError, AttributeError, RecursionError):
                self._stored = {}
        return self._stored

    def _cache_file(self) -> Path | None:
        identities = [(name, self._source.identity(name)) for name in self._source.specs]
        if not identities or any(identity is None for _, identity in identities):
            return None
        return cache_folder() / "fingerprints" / f"{hash_of(repr(identities).encode())}.json"


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == HEX and set(value) <= set("0123456789abcdef")


def cache_folder() -> Path:
    """Where taskvec caches what can be computed again: $TASKVEC_CACHE, else the user's cache folder."""
    if own := os.environ.get("TASKVEC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taskvec"


@final
@dataclass(frozen=True, slots=True)
class RecordedBase:
    """What a file on disk says of the base it was cut from; answers like `Fingerprints`, without any tensor."""

    fingerprint: str
    hashes: Mapping[str, str]

    def names(self) -> list[str]:
        """The names of all tensors of the base."""
        return list(self.hashes)

    def tensor(self, name: str) -> str:
        """The recorded hash of one tensor of the base ("" when the base had no such tensor)."""
        return self.hashes.get(name, "")

    def tensors(self) -> dict[str, str]:
        """The recorded hashes of all tensors of the base."""
        return dict(self.hashes)

    def known(self) -> str | None:
        """The recorded fingerprint."""
        return self.fingerprint

    def whole(self) -> str:
        """The recorded fingerprint."""
        return self.fingerprint


class BaseIdentity(Protocol):
    """How a displacement knows the point it was cut from: hashes that may or may not need a read."""

    def names(self) -> list[str]:
        """The names of all tensors of the base."""

    def tensor(self, name: str) -> str:
        """The hash of one tensor of the base."""

    def tensors(self) -> dict[str, str]:
        """The hashes of all tensors of the base."""

    def known(self) -> str | None:
        """The fingerprint, if it costs no read."""

    def whole(self) -> str:
        """The fingerprint, whatever it costs."""
