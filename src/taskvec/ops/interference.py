"""Singular Task Interference (arXiv:2412.00081, eq. 6), from products of Tk × Tk matrices alone.

U = [U₁ .. U_T] (m, Σk) and V (n, Σk) hold the singular vectors of T tasks side by side, s (Σk,) their values:
STI = ‖A diag(s) B‖₁ with A = UᵀU − I and B = VᵀV − I.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["entrywise", "induced"]


def deviation(columns: Tensor, ranks: Sequence[int] | None = None) -> Tensor:
    """columnsᵀ columns − I (Σk, Σk) in float64.

    With `ranks`, the columns of each task are known to be orthonormal, and its block on the diagonal is exactly 0.
    """
    wide = columns.double()
    found = wide.T @ wide
    found -= torch.eye(found.shape[0], dtype=found.dtype, device=found.device)
    for block in blocks(ranks or ()):
        found[block, block] = 0.0
    return found


def blocks(ranks: Sequence[int]) -> list[slice]:
    """Where the columns of each task lie."""
    stops = list(accumulate(ranks))
    return [slice(stop - rank, stop) for stop, rank in zip(stops, ranks, strict=True)]


def interference(left: Tensor, s: Tensor, right: Tensor) -> Tensor:
    """Left diag(s) right (Σk, Σk), for deviations `left` and `right`."""
    return (left * s.double()) @ right


def measure(product: Tensor, norm: Norm) -> float:
    """‖product‖₁: the sum of all magnitudes ("entrywise"), or the largest sum of a column ("induced")."""
    if not product.numel():
        return 0.0
    sums = product.abs().sum(0)
    return float(sums.sum() if norm == "entrywise" else sums.max())


def block_sums(product: Tensor, ranks: Sequence[int]) -> Tensor:
    """Sums of magnitudes (task, task) over the blocks of `product`; they add up to its entrywise norm.

    The diagonal blocks of the deviations vanish, those of their product do not: block (i, i) holds what task i and
    every other one share on both sides, block (i, j) what passes from i to j by way of a third task.
    """
    each = blocks(ranks)
    return torch.stack([torch.stack([product[i, j].abs().sum() for j in each]) for i in each])


def pair_interference(left: Tensor, s: Tensor, right: Tensor, pair: tuple[slice, slice], norm: Norm) -> float:
    """The STI of two tasks alone: A diag(s) B is then block diagonal, A_ij S_j B_ji and A_ji S_i B_ij."""
    i, j = pair
    halves = [measure(interference(left[a, b], s[b], right[b, a]), norm) for a, b in ((i, j), (j, i))]
    return sum(halves) if norm == "entrywise" else max(halves)
