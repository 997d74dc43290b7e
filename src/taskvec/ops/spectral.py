"""The singular value decomposition of a matrix, whole or its largest triplets."""

from __future__ import annotations

import torch
from torch import Tensor

from taskvec.ops.triplets import Triplets


def decompose(matrix: Tensor, rank: int | None = None) -> Triplets:
    """The `rank` largest singular triplets of `matrix` (m, n), of its dtype; all min(m, n) of them by default."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return Triplets(u, s, vh.T).top(min(matrix.shape) if rank is None else rank)
