"""How much the rows of two tensors differ as distributions: for Arcee Fusion."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_EPS = 1e-8


def softmax_divergence(tuned: npt.NDArray[Any], base: npt.NDArray[Any]) -> Floats:
    """KL(softmax(tuned) ‖ softmax(base)) of each row (row, m), in float64; 1e-8 is added to all probabilities."""
    p, q = _softmax(tuned) + _EPS, _softmax(base) + _EPS
    divergence: Floats = (p * np.log(p / q)).sum(1)
    return divergence


def _softmax(x: npt.NDArray[Any]) -> Floats:
    wide = x.astype(np.float64)
    powers = np.exp(wide - wide.max(1, keepdims=True))
    shares: Floats = powers / powers.sum(1, keepdims=True)
    return shares
