"""Subspace alignment ratio: how much of each task lies in the leading subspace of the merged vector."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from taskvec.analyze._analysis import Tables, analysis
from taskvec.analyze._deltas import Deltas
from taskvec.methods._parameters import Range
from taskvec.ops.products import frobenius_norm, projected_norm, triplets_of


@analysis(
    on="matrix",
    source="arXiv:2502.04959",
    tables={
        "sar": "Share of the norm of each task's delta inside the `rank` leading left singular directions that make up "
        "the merged delta: 1 means that the merge covers the task.",
    },
)
def sar(deltas: Deltas, *, residual: Annotated[float, Range(0.0, 1.0)] = 0.05) -> Tables:
    """SAR = ‖Π_k δ_t‖_F / ‖δ_t‖_F, Π_k the projector on the top-k left singular vectors of the merged delta δ_M.

    k is the smallest rank with ‖δ_M − Π_k δ_M‖_F ≤ residual · ‖δ_M‖_F. Zero deltas, and tensors whose merged delta
    is 0, have no row.
    """
    merged = triplets_of(deltas.merged())
    k = rank_within(merged.s, residual)
    columns = merged.u[:, :k].clone()
    del merged
    rows = []
    for task in deltas.tasks if k else ():
        delta = deltas.matrix(task)
        if norm := frobenius_norm(delta):
            value = projected_norm(columns, delta) / norm
            rows.append({"name": deltas.title, "task": task, "value": value, "rank": k})
    return {"sar": rows}


def rank_within(s: Tensor, residual: float) -> int:
    """The smallest k with √(Σ_{j>k} σ_j²) ≤ residual · √(Σ σ_j²), for values in descending order."""
    if not s.numel():
        return 0
    squares = (s.double() / s[0].double()).square()
    tails = squares.flip(0).cumsum(0).flip(0)  # tails[k] = Σ_{j>=k}: what is left when k are kept
    return int((tails > residual**2 * tails[0]).sum())
