"""Principal components of the tasks: the least possible residual."""

from __future__ import annotations

import torch

from taskvec.basis._solver import Codes, Problem, solver
from taskvec.basis.algebra import best_decoder, principal


@solver(source="Eckart and Young 1936; centered: the baseline of arXiv:2502.01015's code")
def pca(problem: Problem, *, centered: bool = False) -> Codes:
    """s_m = V u_m for the top M eigenvectors of G (uncentered), W = Uᵀ; the residual is Σ_{k > M} λ_k.

    `centered` keeps the mean of the tasks and M − 1 components of what deviates from it (the released code keeps M
    beside the mean: ask for one more). Signs are fixed. Vectors of eigenvalue 0 are left out.
    """
    tasks = len(problem.gram)
    if not centered:
        u, values = principal(problem.factor, problem.wanted)
        return Codes(u, u.T.clone(), {"eigenvalues": values.tolist()}, _note(u.shape[1], problem.wanted))
    mean = torch.full((tasks, 1), 1.0 / tasks, dtype=torch.float64)
    center = torch.eye(tasks, dtype=torch.float64) - mean
    u, values = principal(problem.factor @ center, problem.wanted - 1)
    encoder = torch.cat([mean, center @ u], 1)
    report = {"eigenvalues": values.tolist(), "mean": "the first vector"}
    return Codes(encoder, best_decoder(problem.factor, encoder), report, _note(encoder.shape[1], problem.wanted))


def _note(found: int, size: int) -> tuple[str, ...]:
    return () if found == size else (f"{found} vectors hold what {size} could: the tasks span no more.",)
