"""M of the tasks themselves: medoids, or the tasks of the greatest leverage."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from taskvec.basis._solver import Codes, Problem, keeping, solver
from taskvec.basis.algebra import Matrix, principal
from taskvec.errors import ParameterError

By = Literal["medoids", "leverage"]


@solver(source="Kaufman and Rousseeuw 1990 (medoids); Mahoney and Drineas 2009 (leverage)", online="members")
def select(problem: Problem, *, by: By = "medoids") -> Codes:
    """M vectors of the library, unchanged; the others are decoded from them by least squares.

    `medoids`: those with the least sum of squared distances from every task to its nearest one; built up greedily,
    then swapped one for another while that helps. `leverage`: one after another, the task with the greatest part in
    the top M eigenvectors that those taken before do not have. Among equals, the first.

    Raises:
        ParameterError: an unknown `by`.
    """
    if by not in get_args(By):
        raise ParameterError(f"select: by={by!r} is neither 'medoids' nor 'leverage'.")
    size = min(problem.wanted, len(problem.gram))
    members = _medoids(problem.gram, size) if by == "medoids" else _leverage(problem.factor, size)
    return keeping(problem, members, {})


def _medoids(gram: Matrix, size: int) -> list[int]:
    squares = gram.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2.0 * gram).clamp(min=0.0)
    chosen: list[int] = []
    nearest = torch.full((len(gram),), torch.inf, dtype=torch.float64)
    for _ in range(size):
        sums = torch.minimum(nearest[:, None], distances).sum(0)
        sums[chosen] = torch.inf
        chosen.append(int(sums.argmin()))
        nearest = torch.minimum(nearest, distances[:, chosen[-1]])
    return sorted(_swapped(distances, chosen))


def _swapped(distances: Matrix, chosen: list[int]) -> list[int]:
    """Exchange a medoid for another task, the best exchange first, until none helps."""
    best = float(distances[:, chosen].min(1).values.sum())
    while True:
        trials = []
        for i in range(len(chosen)):
            rest = chosen[:i] + chosen[i + 1 :]
            near = distances[:, rest].min(1).values if rest else torch.full((len(distances),), torch.inf)
            sums = torch.minimum(near[:, None], distances).sum(0)
            sums[chosen] = torch.inf
            j = int(sums.argmin())
            trials.append((float(sums[j]), i, j))
        least, i, j = min(trials)
        if least >= best * (1 - 1e-12):
            return chosen
        chosen, best = [*chosen[:i], j, *chosen[i + 1 :]], least


def _leverage(factor: Matrix, size: int) -> list[int]:
    """Pivoted orthogonalization of the rows of the top eigenvectors."""
    left, _ = principal(factor, size)
    chosen: list[int] = []
    for _ in range(size):
        scores = left.square().sum(1)
        scores[chosen] = -1.0
        chosen.append(int(scores.argmax()))
        row = left[chosen[-1]]
        if float(row @ row) > 1e-20:
            left = left - torch.outer(left @ row, row) / (row @ row)
    return sorted(chosen)
