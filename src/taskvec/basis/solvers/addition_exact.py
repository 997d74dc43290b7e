"""The default: convex vectors whose sum is the sum of all tasks, exactly, and the best subspace that allows it."""

from __future__ import annotations

import torch

from taskvec.basis._solver import Codes, Problem, solver
from taskvec.basis.algebra import Matrix, best_decoder, principal
from taskvec.errors import ParameterError


@solver(source="closed form; see docs/bases.md")
def addition_exact(problem: Problem) -> Codes:
    """The total of the tasks is kept exactly, and beside it the best M − 1 directions of what is left.

        π = totals, g = G π, P = I − π gᵀ / (πᵀ g), G' = Pᵀ G P             the total is taken out
        Z = P U for the top M − 1 eigenvectors U of G', each minus a multiple of π so that it sums to 0, then scaled to
        unit norm of its vector; R (M, M − 1) the vertices of a regular simplex around 0
        B = π 1ᵀ / (1ᵀ π) + d Z Rᵀ with the largest d that keeps B ≥ 0;  W is the least-squares decoder

    Columns of B are probability vectors and B 1 = M π / (1ᵀ π), so Σ_m s_m is the total times M / (1ᵀ π). The residual
    is Σ_{k ≥ M} λ_k(G'). Fewer vectors come out where fewer are enough for a residual of 0.

    Raises:
        ParameterError: totals that are not positive, or vectors that cancel (πᵀ G π = 0).
    """
    pi, factor, size = problem.totals, problem.factor, problem.wanted
    if not bool((pi > 0.0).all()):
        raise ParameterError("addition_exact needs positive coefficients for the total.", "use method='pca'.")
    total = factor @ pi
    squared = float(total @ total)
    if squared <= 1e-24 * float((factor.norm(dim=0) * pi).sum()) ** 2:
        raise ParameterError("the vectors cancel: their total is 0.", "use method='pca', or other coefficients.")
    share = pi / pi.sum()
    project = torch.eye(len(pi), dtype=torch.float64) - torch.outer(pi, total @ factor) / squared
    u, values = principal(factor @ project, size - 1)
    z = project @ u
    z = z - torch.outer(share, z.sum(0))
    z = z / (factor @ z).norm(dim=0)
    vertices = simplex(z.shape[1] + 1)
    spread = z @ vertices.T
    room = torch.where(spread < 0.0, share[:, None] / -spread.clamp(max=-1e-300), torch.inf).min() if z.numel() else 0.0
    encoder = share[:, None] + float(room) * spread
    encoder = encoder.clamp(min=0.0)
    notes: tuple[str, ...] = ()
    if encoder.shape[1] < size:
        notes = (f"{encoder.shape[1]} vectors hold what {size} could: the tasks span no more.",)
    return Codes(encoder, best_decoder(factor, encoder), {"eigenvalues": values.tolist()}, notes)


def simplex(count: int) -> Matrix:
    """The vertices (count, count − 1) of a regular simplex around 0: orthonormal contrasts, as rows."""
    out = torch.zeros(count, count - 1, dtype=torch.float64)
    for k in range(1, count):
        out[:k, k - 1] = 1.0
        out[k, k - 1] = -k
        out[:, k - 1] /= (k * (k + 1)) ** 0.5
    return out
