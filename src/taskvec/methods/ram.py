"""RAM: average the entries that several tasks moved, keep those that one moved (arXiv:2601.13572)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import merge_method
from taskvec.methods._parameters import NonNegative
from taskvec.ops.entry_kernels import active_mean


def _kernel(block: Any, *, epsilon: float, **_: Any) -> Any:
    out = np.empty(block.shape[1])
    active_mean(block, epsilon, np.ones(block.shape[0]), out)
    return out


@merge_method(source="arXiv:2601.13572, RAM", kernel=_kernel, laws={"permutation", "zero"})
def ram(deltas: Float[Tensor, "task *shape"], *, epsilon: NonNegative = 1e-5) -> Float[Tensor, "*shape"]:
    """The mean of the deltas that are active at an entry: |δ_t| > epsilon; 0 where none is.

    Zero inputs give 0, equal ones the active entries of the input, opposed ones 0; disjoint supports give the sum;
    0-d and empty tensors keep their shape.

    Args:
        deltas: one delta a task, stacked on axis 0.
        epsilon: what counts as rounding of the stored weights and not as an update; ABSOLUTE, so that results do not
            scale with their inputs. One bfloat16 step of a weight below 0.00195 is less than the default.

    Differs from the paper: nothing that the published code does.
    """
    active = deltas.double().abs() > epsilon
    total = torch.where(active, deltas.double(), 0.0).sum(0)
    return total / active.sum(0).clamp(min=1)
