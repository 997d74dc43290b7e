"""Subspace overlap: how much of the space of one task's singular vectors lies in another's."""

from __future__ import annotations

from taskvec.analyze._analysis import Tables, analysis, pairs
from taskvec.analyze._deltas import Deltas


@analysis(
    on="matrix",
    source="the mean squared cosine of the principal angles, as in arXiv:2106.09685, section 7.2",
    least=2,
    tables={
        "overlap": "Share of one task's leading left (output) and right (input) singular directions that lies in "
        "another's: 1 is the same subspace, 0 orthogonal ones; k random directions of m give k/m.",
    },
)
def overlap(deltas: Deltas) -> Tables:
    """‖U_iᵀU_j‖_F² / k on the left, ‖V_iᵀV_j‖_F² / k on the right, k the smaller number of triplets.

    Pairs with a zero delta have no row.
    """
    left, right = deltas.deviations
    at, ranks, rows = deltas.blocks(), deltas.ranks, []
    for i, j in pairs(deltas.tasks):
        k = min(ranks[i], ranks[j])
        if k:
            sides = (float(side[at[i], at[j]].square().sum()) / k for side in (left, right))
            names = {"name": deltas.title, "task": deltas.tasks[i], "other": deltas.tasks[j]}
            rows.append({**names, **dict(zip(("left", "right"), sides, strict=True)), "rank": k})
    return {"overlap": rows}
