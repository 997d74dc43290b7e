"""Model Breadcrumbs: sparse masks at both ends (Davari and Belilovsky, ECCV 2024, arXiv:2312.06795)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from taskvec.methods._band import Scope, band, band_method, check_band, limits
from taskvec.methods._dialects import TwoDialects, check_sum, only_in
from taskvec.methods._parameters import Coefficients, Density, Share, shares
from taskvec.ops.signs import column
from taskvec.ops.vote_kernels import trimmed_sum

if TYPE_CHECKING:
    from torch import Tensor


def _check(
    *, density: Any, gamma: float, scope: Scope, dialect: TwoDialects, coefficients: Any, normalize: bool
) -> None:
    check_band("breadcrumbs", density, gamma, dialect, scope)
    only_in(("mergekit",), method="breadcrumbs", dialect=dialect, normalize=(normalize, False))
    check_sum("breadcrumbs", coefficients, normalize)


def _kernel(block: Any, *, state: Any, scope: Scope, coefficients: Any, normalize: bool, **_: Any) -> Any:
    if scope == "row":
        return None
    out = np.empty(block.shape[1])
    high, low = limits(state)
    trimmed_sum(block, low, high, shares(coefficients, normalize), out)
    return out


@band_method(
    source="arXiv:2312.06795, section 3",
    kernel=_kernel,
    check=_check,
)
def breadcrumbs(
    deltas: Float[Tensor, task * shape],
    *,
    density: Density = 0.15,
    gamma: Share = 0.006,
    scope: Scope = "tensor",
    dialect: TwoDialects = "paper",
    coefficients: Coefficients = 1.0,
    normalize: bool = False,
    state: Any,
) -> Float[Tensor, "*shape"]:
    """In each tensor, leave out each task's largest entries, keep the next largest, and add up.

    With r = floor(γ n) and k = min(max(1, ceil(density · n)), n - r): the sum over tasks of c_t δ_t where |δ_t| lies
    between its (r + 1)-th and its (r + k)-th largest magnitude; ties at both ends stay.

    One task: its band. T equal tasks: T times the band. Opposed tasks: 0. Zero input: 0. Equal magnitudes are all
    kept, and so are tensors of one entry, 0-d ones among them; an empty one stays empty.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: fraction of the entries that is kept, in (0, 1]; one number, or one a task.
        gamma: fraction of the largest entries that is left out; density + gamma may not exceed 1.
        scope: "tensor" as in the paper; "row" as in its published code: floor(density · m) of the m entries along the
            last axis, so that short rows vanish; scalars stay.
        dialect: "mergekit" keeps floor(density · n) entries, of tensors of one entry none, and leaves out fewer of the
            largest where the two exceed n.
        coefficients: c_t, one number or one a task.
        normalize: whether to divide by the sum of the coefficients (mergekit).
        state: the largest and smallest magnitude kept of each task.

    Differs from the paper: the band is counted in entries from the top, as in the code, not in percentiles; ties stay.
    """
    kept = band(deltas, state=state, density=density, gamma=gamma, scope=scope)
    return (column(shares(coefficients, normalize), deltas) * kept.double()).sum(0)
