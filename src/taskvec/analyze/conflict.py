"""Sign conflicts: entries that tasks move in opposite directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from taskvec.analyze._analysis import Tables, analysis, pairs

Floats = npt.NDArray[np.float64]


def _finish(found: Mapping[str, Floats], tasks: Sequence[str]) -> Tables:
    size = len(tasks)
    both, products = sum((each[2:] for each in found.values()), np.zeros(2 * size**2)).reshape(2, size, size)
    return {
        "conflict": [
            {"name": name, "moved": int(moved), "conflicts": int(apart), "share": _share(apart, moved)}
            for name, (moved, apart, *_) in found.items()
        ],
        "conflict_pairs": [
            {
                "task": tasks[i],
                "other": tasks[j],
                "moved": int(both[i, j]),
                "share": _share((both[i, j] - products[i, j]) / 2, both[i, j]),
            }
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
def conflict(block: Floats) -> Floats:
    """The share of entries in which tasks disagree about the sign, by tensor and by pair of tasks."""
    signs = np.sign(block)
    up, down = (signs > 0).any(0), (signs < 0).any(0)
    moved = np.abs(signs)
    products = moved @ moved.T, signs @ signs.T  # sums of 0 and ±1 are exact in any order
    return np.concatenate([[(up | down).sum(), (up & down).sum()], *(each.ravel() for each in products)])
