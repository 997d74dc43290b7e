"""Singular Task Interference: how much the singular vectors of different tasks get in each other's way."""

from __future__ import annotations

from typing import Any

from taskvec.analyze._analysis import Tables, analysis, pairs
from taskvec.analyze._deltas import Deltas
from taskvec.ops.interference import Norm, deviation, interference, measure, pair_interference
from taskvec.ops.polar import polar


@analysis(
    on="matrix",
    source="arXiv:2412.00081, eq. 6",
    least=2,
    tables={
        "sti": "How much the singular vectors of all tasks overlap, weighted by the singular values: 0 where the left "
        "or the right ones are orthogonal between tasks. It grows with the size of the matrix and of the deltas.",
        "sti_pairs": "The same for every two tasks alone.",
    },
)
def sti(deltas: Deltas, *, norm: Norm = "entrywise", whiten: bool = False) -> Tables:
    """STI = ‖(UᵀU − I) S (VᵀV − I)‖₁ over the largest triplets of each task, all tasks and every two of them.

    U = [U₁ .. U_T], V and S hold the triplets of all tasks side by side: r // T of each, or density · r.

    Args:
        deltas: those of one matrix.
        norm: "entrywise" (all magnitudes summed) or "induced" (the largest sum of a column); the paper does not say.
        whiten: also the STI after U and V were replaced by their polar factors, as TSV-Merge does: 0 to rounding,
            unless columns are linearly dependent (`dropped` counts them).
    """
    left, right = deltas.deviations
    row: dict[str, Any] = {
        "name": deltas.title,
        "value": measure(interference(left, deltas.values, right), norm),
        "rank": max(deltas.ranks),
    }
    if whiten:
        row |= _whitened(deltas, norm)
    at = deltas.blocks()
    return {
        "sti": [row],
        "sti_pairs": [
            {
                "name": deltas.title,
                "task": deltas.tasks[i],
                "other": deltas.tasks[j],
                "value": pair_interference(left, deltas.values, right, (at[i], at[j]), norm),
            }
            for i, j in pairs(deltas.tasks)
        ],
    }


def _whitened(deltas: Deltas, norm: Norm) -> dict[str, Any]:
    factors = [polar(columns) for columns in (deltas.left(), deltas.right())]
    left, right = (deviation(each.factor) for each in factors)
    value = measure(interference(left, deltas.values, right), norm)
    return {"whitened": value, "dropped": sum(each.dropped for each in factors)}
