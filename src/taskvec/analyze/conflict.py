"""Sign conflicts: entries that tasks move in opposite directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from taskvec.analyze._analysis import Tables, analysis, pairs

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.object_]  # (entries moved by any task, with both signs; both moved; moved apart) a block


def _finish(found: Mapping[str, Counts], tasks: Sequence[str]) -> Tables:
    zero = np.zeros((len(tasks), len(tasks)))
    both = sum((each[1] for each in found.values()), zero)
    apart = sum((each[2] for each in found.values()), zero)
    return {
        "conflict": [
            {"name": name, "moved": int(each[0][0]), "conflicts": int(each[0][1]), "share": _share(*each[0][::-1])}
            for name, each in found.items()
        ],
        "conflict_pairs": [
            {"task": tasks[i], "other": tasks[j], "moved": int(both[i, j]), "share": _share(apart[i, j], both[i, j])}
            for i, j in pairs(tasks)
        ],
    }


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


@analysis(
    on="entries",
    source="arXiv:2306.01708, section 4.2",
    least=2,
    finish=_finish,
    tables={
        "conflict": "Of the entries that some task moves, the share that two tasks move in opposite directions.",
        "conflict_pairs": "Of the entries that both tasks move, the share that they move in opposite directions; "
        "unrelated vectors give 0.5.",
    },
)
def conflict(block: Floats) -> Any:
    """The share of entries in which tasks disagree about the sign, by tensor and by pair of tasks."""
    signs = np.sign(block)
    up, down = (signs > 0).any(0), (signs < 0).any(0)
    moved = np.abs(signs)
    both = moved @ moved.T  # sums of 0 and ±1 are exact in any order
    counts = np.empty(3, object)
    counts[:] = [np.array([(up | down).sum(), (up & down).sum()]), both, (both - signs @ signs.T) / 2]
    return counts
