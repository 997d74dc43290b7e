"""Baselines: some of the tasks, or Gaussian directions that know nothing of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

from taskvec.basis._solver import Codes, Problem, keeping, solver
from taskvec.basis.gaussian import gaussian_vectors
from taskvec.errors import ParameterError
from taskvec.vector import TaskVector

Kind = Literal["sample", "gaussian"]


def directions(
    vectors: Mapping[str, TaskVector], codes: Codes, *, kind: Kind = "sample", seed: int = 0, **_: Any
) -> list[TaskVector] | None:
    """The Gaussian vectors; None for a sample, which is made of tasks."""
    return gaussian_vectors(vectors, codes.encoder.shape[1], seed) if kind == "gaussian" else None


@solver(source="baselines of arXiv:2502.01015's code", online="members", build=directions)
def random(problem: Problem, *, kind: Kind = "sample", seed: int = 0) -> Codes:
    """`sample`: M tasks, drawn without replacement. `gaussian`: M vectors of independent normal entries.

    Tasks are decoded by least squares; from Gaussian vectors next to nothing of a large model comes back.

    Raises:
        ParameterError: an unknown `kind`.
    """
    if kind not in get_args(Kind):
        raise ParameterError(f"random: kind={kind!r} is neither 'sample' nor 'gaussian'.")
    tasks = len(problem.gram)
    if kind == "gaussian":
        nothing = torch.zeros(tasks, problem.wanted, dtype=torch.float64)
        return Codes(nothing, nothing.T.clone(), {"seed": seed}, refit=True)
    order = torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))
    members = sorted(order[: problem.wanted].tolist())
    return keeping(problem, members, {"seed": seed})
