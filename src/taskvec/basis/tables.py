"""What every result of this room has: plain data, as JSON, in a file."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from taskvec.checkpoint.durable import write_durably


def finite(value: float) -> float | None:
    """The number, or None where it is infinite, which JSON does not have."""
    return value if math.isfinite(value) else None


class Table:
    """A frozen dataclass of plain data."""

    __slots__ = ()

    def plain(self) -> dict[str, Any]:
        """The result as dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return]  # every table is a dataclass

    def to_json(self) -> str:
        """`plain()` as a JSON object."""
        return json.dumps(self.plain(), indent=1, ensure_ascii=False, allow_nan=False)

    def save(self, path: str | Path) -> Path:
        """Write `to_json()` to `path`."""
        write_durably(Path(path), self.to_json() + "\n")
        return Path(path)
