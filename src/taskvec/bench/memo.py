"""Results that a second run reuses: small JSON files named by a hash of everything they depend on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from taskvec.ops.hashing import hash_of


def key_of(parts: Mapping[str, Any]) -> str:
    """A hash of plain data."""
    return hash_of(json.dumps(parts, sort_keys=True, default=str).encode())


@final
class Memo:
    """Remembers what a computation gave for the same inputs, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.reused = 0

    def __call__(self, parts: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The plain data that `compute` gave when `parts` were last seen, else what it gives now."""
        path = self._folder / f"{key_of(parts)}.json"
        if path.is_file():
            self.reused += 1
            return json.loads(path.read_text("utf-8"))["result"]
        result = compute()
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"inputs": parts, "result": result}, indent=1, default=str)
        partial = path.with_suffix(".partial")
        partial.write_text(text, "utf-8")
        partial.replace(path)
        return json.loads(text)["result"]
