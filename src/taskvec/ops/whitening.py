"""Task singular vectors of several tasks made orthogonal to each other, all at once (arXiv:2412.00081, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskvec.ops.polar import Polar, Route, gram_of, polar
from taskvec.ops.spectral import NOISE, leading_for
from taskvec.ops.triplets import Triplets

ALIKE = 0.999  # cosine of two tasks above which they are reported


@final
@dataclass(frozen=True, eq=False, slots=True)
class Whitened:
    """u, s and v of all tasks side by side, float64; `blocks[t]` are the columns of task t (none for a zero delta).

    `left` and `right` are the polar factors u and v with their reports; `alike` lists the pairs of tasks whose
    truncated deltas have a cosine beyond ±0.999, with it: equal ones share their directions, nearly equal ones keep a
    small difference that the merge amplifies.
    """

    s: Tensor
    blocks: tuple[slice, ...]
    left: Polar
    right: Polar
    alike: tuple[tuple[int, int, float], ...]

    @property
    def merged(self) -> Triplets:
        """All parts together: u diag(s) vᵀ."""
        return Triplets(self.left.factor, self.s, self.right.factor)

    def part(self, task: int) -> Triplets:
        """What one task contributes; parts of different tasks are orthogonal where no direction was dropped."""
        block = self.blocks[task]
        return Triplets(self.left.factor[:, block], self.s[block], self.right.factor[:, block])

    def parts(self) -> Float64[Tensor, "task m n"]:
        """What each task contributes, as matrices."""
        return torch.stack([self.part(task).matrix() for task in range(len(self.blocks))])

    def notes(self) -> dict[str, float]:
        """What is worth reporting."""
        sides = (self.left, self.right)
        return {
            "dropped": max(x.dropped for x in sides),
            "condition": max(x.condition for x in sides),
            "alike": len(self.alike),
        }


def orthogonalized(spectra: Sequence[Triplets], *, route: Route = "eigh", tolerance: float = 1e-6) -> Whitened:
    """The triplets of every task (m, n), with left and right singular vectors replaced by the nearest orthonormal ones.

    Singular values stay. Directions in which all tasks together have less than `tolerance` of the strongest are left
    out, so that equal tasks share one direction and give their average. Triplets that are rounding noise (below
    2^-20 of their task's largest) are left out first: they have no direction.

    Args:
        spectra: the leading triplets of each task, of one shape; their ranks may differ and be 0.
        route: how the polar factors are computed.
        tolerance: of a direction's strength, relative to the strongest.
    """
    given, blocks = side_by_side([x.top(int((x.s > NOISE * x.s[:1]).sum())) for x in spectra])
    left, right = gram_of(given.u), gram_of(given.v)
    return Whitened(
        s=given.s,
        blocks=blocks,
        left=polar(given.u, tolerance=tolerance, route=route, gram=left),
        right=polar(given.v, tolerance=tolerance, route=route, gram=right),
        alike=alike(given.s, left * right, blocks),
    )


def decorrelated(stacked: Float[Tensor, "task m n"], rank: int, *, tolerance: float = 1e-6) -> Whitened:
    """The same, from the `rank` largest triplets of each delta."""
    return orthogonalized([leading_for(delta, rank).triplets for delta in stacked], tolerance=tolerance)


def side_by_side(spectra: Sequence[Triplets]) -> tuple[Triplets, tuple[slice, ...]]:
    """The triplets of all tasks in one, which is their sum, with s in float64, and where those of each task lie."""
    stops = list(accumulate(x.rank for x in spectra))
    blocks = tuple(slice(stop - x.rank, stop) for stop, x in zip(stops, spectra, strict=True))
    u, s, v = (torch.cat(sides, -1) for sides in zip(*((x.u, x.s, x.v) for x in spectra), strict=True))
    return Triplets(u, s.double(), v), blocks


def alike(s: Tensor, overlaps: Tensor, blocks: Sequence[slice]) -> tuple[tuple[int, int, float], ...]:
    """Pairs of tasks by the cosine of u_i diag(s_i) v_iᵀ and u_j diag(s_j) v_jᵀ, from the overlaps of their columns."""
    found = []
    for i, j in combinations(range(len(blocks)), 2):
        a, b = s[blocks[i]], s[blocks[j]]
        norms = float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
        cosine = float(a @ overlaps[blocks[i], blocks[j]].double() @ b) / norms if norms else 0.0
        if abs(cosine) > ALIKE:
            found.append((i, j, cosine))
    return tuple(found)
