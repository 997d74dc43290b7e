"""Breadcrumbs with a sign election, mergekit's invention (masks: arXiv:2312.06795, vote: arXiv:2306.01708)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from taskvec.methods._band import Scope, band, band_method, check_band, limits
from taskvec.methods._dialects import TwoDialects, only_in, vote_rule
from taskvec.methods._parameters import Coefficients, Density, Share
from taskvec.ops.signs import Rule, fuse
from taskvec.ops.vote_kernels import trimmed_vote

if TYPE_CHECKING:
    from torch import Tensor


def _check(
    *, density: Any, gamma: float, scope: Scope, dialect: TwoDialects, coefficients: Any, normalize: bool
) -> None:
    check_band("breadcrumbs_ties", density, gamma, dialect, scope)
    given = {"normalize": (normalize, False), "coefficients": (coefficients, 1.0)}
    only_in(("mergekit",), method="breadcrumbs_ties", dialect=dialect, **given)


def _rule(dialect: TwoDialects, normalize: bool) -> Rule:
    return Rule(divisor="none") if dialect == "paper" else vote_rule(dialect, normalize=normalize)


def _kernel(
    block: Any, *, state: Any, scope: Scope, dialect: TwoDialects, coefficients: Any, normalize: bool, **_: Any
) -> Any:
    if scope == "row":
        return None
    out = np.empty(block.shape[1])
    high, low = limits(state)
    trimmed_vote(block, low, high, np.array(coefficients), _rule(dialect, normalize).codes, out)
    return out


@band_method(
    source="arXiv:2312.06795, section 3, with the vote of arXiv:2306.01708",
    kernel=_kernel,
    check=_check,
)
def breadcrumbs_ties(
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
    """Keep what `breadcrumbs` keeps, elect one sign an entry, and add up those that agree.

    The bands B_t are those of `breadcrumbs`; the result is the sum of the B_t whose sign is that of Σ B_t.

    One task: its band. T equal tasks: T times the band. Opposed tasks: 0 (a zero vote elects nobody). Zero input: 0.
    Tensors of one entry, 0-d ones among them, are kept and vote; an empty one stays empty.

    Args:
        deltas: one delta a task, stacked on axis 0.
        density: fraction of the entries that is kept, in (0, 1]; one number, or one a task.
        gamma: fraction of the largest entries that is left out; density + gamma may not exceed 1.
        scope: "tensor", or "row" (see `breadcrumbs`).
        dialect: "mergekit" keeps floor(density · n) entries, votes on c_t B_t and adds those up; a zero vote elects +.
        coefficients: c_t, one number or one a task (mergekit).
        normalize: whether to divide by the sum of the agreeing coefficients (mergekit).
        state: the largest and smallest magnitude kept of each task.

    Differs from the paper: the paper has no election.
    """
    kept = band(deltas, state=state, density=density, gamma=gamma, scope=scope)
    return fuse(kept, coefficients, _rule(dialect, normalize))
