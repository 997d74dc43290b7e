"""`Analysis`: what was found, as frozen tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from taskvec.checkpoint.durable import replace_durably, writing
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

    def profile(
        self, table: str, column: str, by: str | Sequence[str] = "depth", *, total: bool = False
    ) -> dict[Any, float]:
        """The mean, or the sum (`total`), of a column over the rows that have something in common.

        `by` names one column or several, of the table or of "tensors": `profile("energy", "effective_rank", "kind")`
        maps each kind of matrix to its mean effective rank, `by=("kind", "depth")` pairs of both. Rows in which one of
        them is unknown are left out.

        Raises:
            UnknownName: no such table or column.
        """
        places = {row["name"]: row for row in self.tables.get("tensors", ())}
        keys, found = [by] if isinstance(by, str) else list(by), dict[Any, list[float]]()
        for row in self[table]:
            known = {**places.get(row.get("name"), {}), **row}
            for name in (column, *keys):
                if name not in known:
                    raise UnknownName.among(f"the table '{table}' has no column '{name}'.", name, known)
            at = tuple(known[key] for key in keys)
            if None not in (known[column], *at):
                found.setdefault(at[0] if isinstance(by, str) else at, []).append(known[column])
        return {at: math.fsum(each) / (1 if total else len(each)) for at, each in found.items()}

    def plain(self) -> dict[str, Any]:
        """{"tasks": […], "base": …, "settings": {…}, "meanings": {…}, and each table by its name as a list of rows}."""
        about = {"settings": dict(self.settings), "meanings": dict(self.meanings)}
        return {
            "tasks": list(self.tasks),
            "base": self.base,
            **about,
            **{name: [dict(row) for row in rows] for name, rows in self.tables.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Analysis:
        """The inverse of `plain`, also of what JSON made of it."""
        about = ("tasks", "base", "settings", "meanings")
        tables = {name: tuple(rows) for name, rows in plain.items() if name not in about}
        return cls(
            tasks=tuple(plain["tasks"]),
            tables=tables,
            meanings=plain["meanings"],
            settings=plain["settings"],
            base=plain["base"],
        )

    def to_json(self) -> str:
        """`plain()` as JSON."""
        return json.dumps(self.plain(), indent=1)

    def save(self, path: str | Path) -> Path:
        """Write `to_json()` to `path`.

        Raises:
            DestinationError: the disk is full, or `path` cannot be written.
        """
        target = Path(path)
        with writing(target):
            replace_durably(target, self.to_json() + "\n")
        return target
