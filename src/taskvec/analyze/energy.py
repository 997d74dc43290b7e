"""How the energy of each delta is spread over its singular values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from taskvec.analyze._analysis import Row, Tables, analysis
from taskvec.analyze._deltas import Deltas

DENSITIES = (0.01, 0.05, 0.1, 0.2, 0.5)


@analysis(
    on="matrix",
    source="arXiv:2412.00081, section 3; Roy and Vetterli, The effective rank, EUSIPCO 2007",
    tables={
        "energy": "`kept_d`: the share of the squared norm in the largest d·min(m, n) singular values; `kept`: in the "
        "`rank` that interference looks at; the effective and the stable rank count the directions that matter.",
    },
)
def energy(deltas: Deltas) -> Tables:
    """Kept energy Σ_{j≤k} σ_j² / Σ σ_j² at k = ⌊d·min(m, n)⌋ (at least 1), and two ranks that need no threshold.

    Effective rank: exp(−Σ p_j ln p_j) with p_j = σ_j / Σ σ. Stable rank: Σ σ_j² / σ₁². Zero deltas have no row.
    """
    spectra = {task: deltas.spectrum(task) for task in deltas.tasks}
    return {"energy": [_row(deltas, task, s) for task, s in spectra.items() if s.numel()]}


def _row(deltas: Deltas, task: str, s: Tensor) -> Row:
    shares = s / s[0]  # squares of tiny values would underflow
    squares = shares.square()
    total, p = squares.sum(), shares / shares.sum()
    rank = min(deltas.rank, len(s))
    row: dict[str, Any] = {
        "name": deltas.title,
        "task": task,
        "norm": float(s[0]) * math.sqrt(total),
        "effective_rank": math.exp(float(torch.special.entr(p).sum())),
        "stable_rank": float(total),
        "rank": rank,
        "kept": float(squares[:rank].sum() / total),
    }
    return row | {f"kept_{d:g}": float(squares[: deltas.rank_at(d)].sum() / total) for d in DENSITIES}
