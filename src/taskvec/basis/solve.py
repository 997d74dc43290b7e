"""`solve`: from a Gram matrix and a size to codes, by a registered solver; nothing but T × T matrices is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from taskvec.basis._solver import Codes, Problem, get
from taskvec.basis.algebra import check_gram
from taskvec.errors import ParameterError


def solve(
    gram: Float64[Tensor, "task task"],
    size: int | None,
    method: str = "addition_exact",
    *,
    weights: Float64[Tensor, " task"] | None = None,
    totals: Float64[Tensor, " task"] | None = None,
    normalize: bool = False,
    **options: Any,
) -> Codes:
    """B (task, size) and W (size, task): bases V B, tasks V ≈ V B W. See `Basis.fit`.

    Raises:
        SchemaError: not a Gram matrix. UnknownName: no such method. ParameterError: a size below 1, an unknown option.
    """
    chosen, tasks = get(method), len(gram)
    chosen.check(options)
    check_gram(gram, [str(i) for i in range(tasks)])
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ParameterError(f"size={size!r} is not a positive number of vectors.", "keep at least one.")
    if size is not None and size >= tasks:
        same = torch.eye(tasks, dtype=torch.float64)
        return Codes(same, same.clone(), {}, (f"{size} vectors for {tasks} tasks: the tasks themselves are kept.",))
    problem = Problem.of(gram, size, weights=weights, totals=totals, normalize=normalize)
    codes = chosen.solve(problem, **options)
    encoder, decoder = codes.encoder * problem.scales[:, None], codes.decoder / problem.scales[None, :]
    return replace(codes, encoder=encoder, decoder=decoder)
