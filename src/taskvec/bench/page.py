"""The page of a record, as `taskvec.report` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskvec import report
from taskvec.checkpoint.durable import replace_durably


def write_page(record: Mapping[str, Any], path: Path) -> bool:
    """Write the page of a record to `path`; False where the reports of this version have none."""
    make = getattr(report, "bench_page", None)
    if make is not None:
        replace_durably(path, make(record))
    return make is not None
