"""Gram matrices of stacked blocks: float64 sums in one fixed order, whatever the number of threads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from taskvec.ops import kernels


def gram(block: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The inner products (task, task) of the rows of `block` (task, n), summed in float64."""
    out = np.zeros((block.shape[0], block.shape[0]))
    kernels.gram(block, out)
    return out
