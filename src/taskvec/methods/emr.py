"""EMR-Merging: the unified vector of elect, mask and rescale (Huang et al., NeurIPS 2024, arXiv:2405.17461)."""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from taskvec.methods._method import merge_method
from taskvec.ops.entry_kernels import elected_largest
from taskvec.ops.signs import ROUNDING, agree, elect


def _kernel(block: Any, **_: Any) -> Any:
    out = np.empty(block.shape[1])
    elected_largest(block, ROUNDING, out)
    return out


@merge_method(
    source="arXiv:2405.17461, the elected unified task vector",
    kernel=_kernel,
    laws={"permutation", "homogeneous", "zero", "idempotent"},
)
def emr(deltas: Float[Tensor, "task *shape"]) -> Float[Tensor, "*shape"]:
    """Elect one sign an entry, by the sum of the deltas, and give it the largest magnitude that agrees with it.

    With e = sign(Σ δ_t): e · max |δ_t| over the tasks whose sign is e. The masks and scales that turn this vector
    back into single tasks are a codec's.

    Zero inputs give 0, equal ones themselves, opposed ones 0 (a zero vote elects nobody); 0-d and empty tensors keep
    their shape.

    Differs from the paper: the published code lets a vote of exactly 0 elect the negative sign.
    """
    return agree(deltas, elect(deltas), aggregate="max")
