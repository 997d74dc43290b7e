"""`Analysis`: what was found, as frozen tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from taskvec.checkpoint.durable import writing
from taskvec.errors import UnknownName

Table = tuple[dict[str, Any], ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Tables by name, each a tuple of rows with named columns; what could not be computed is None.

    `analysis["sti"]` is a table. The table "tensors" lists what was looked at: name, shape, role, depth (the index of
    the layer, where the name holds one) and kind (the name without it); other tables refer to it by `name`.
    `meanings` says in a sentence what the numbers of each table are; `base` is the fingerprint of the base, if known.
    """

    tasks: tuple[str, ...]
    tables: Mapping[str, Table]
    meanings: Mapping[str, str]
    settings: Mapping[str, Any]
    base: str | None = None

    def __getitem__(self, table: str) -> Table:
        if table not in self.tables:
            raise UnknownName.among(f"this analysis has no table '{table}'.", table, self.tables)
        return self.tables[table]

    def names(self) -> list[str]:
        """The names of the tables."""
        return list(self.tables)

    def to_json(self) -> str:
        """{"tasks": […], "base": …, "settings": {…}, and each table by its name as a list of rows}."""
        about = {"tasks": list(self.tasks), "base": self.base, "settings": dict(self.settings)}
        return json.dumps({**about, **{name: list(rows) for name, rows in self.tables.items()}}, indent=1)

    def save(self, path: str | Path) -> Path:
        """Write `to_json()` to `path`.

        Raises:
            DestinationError: the disk is full, or `path` cannot be written.
        """
        target = Path(path)
        with writing(target):
            target.write_text(self.to_json() + "\n", "utf-8")
        return target
