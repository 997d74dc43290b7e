"""`spectral_method`: a function of the tasks' leading singular triplets becomes a registered merge method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Set
from typing import TYPE_CHECKING, Any

from taskvec.methods._method import MergeMethod, enroll
from taskvec.methods._parameters import parameters_of
from taskvec.methods._triplets import Spectral, Wanted

if TYPE_CHECKING:
    from torch import Tensor

    from taskvec.ops.triplets import Triplets

Merge = Callable[..., "tuple[Triplets, Mapping[str, float]]"]


def spectral_method(
    *,
    source: str,
    wanted: Callable[..., Wanted],
    otherwise: str = "average",
    least: int = 1,
    most: int | None = None,
    laws: Set[str] = frozenset(),
    check: Callable[..., None] | None = None,
) -> Callable[[Merge], MergeMethod]:
    """Register a function `(spectra, **parameters) -> (triplets, notes)` as a merge method for matrices.

    The function receives the leading triplets of each task, none of a zero delta, and returns the merged matrix as
    u diag(s) vᵀ with numbers worth reporting. The engine decomposes one task at a time, takes deltas that are kept
    as factors without multiplying them, and keeps the result factored.

    Args:
        source: the paper.
        wanted: `(shape, tasks, **parameters)` -> how many triplets of each task the function needs of a matrix of that
            shape; none: such a matrix goes to `otherwise`. Raises ParameterError where too many are asked for.
        otherwise: the method for tensors that are not matrices.
        least: the fewest inputs.
        most: the most inputs.
        laws: what the contract suite holds the method to.
        check: refuses parameters that do not go together.

    Raises:
        ParameterError: a law that does not exist, or a name that is taken.
    """

    def register(merge: Merge) -> MergeMethod:
        @functools.wraps(merge)
        def dense(stacked: Tensor, **bound: Any) -> Tensor:
            from taskvec.ops.spectral import leading_for

            asked = wanted(tuple(stacked.shape[1:]), len(stacked), **bound)
            spectra = [leading_for(delta, asked.rank, exact=asked.exact).triplets for delta in stacked]
            return merge(spectra, **bound)[0].matrix()

        return enroll(
            MergeMethod(
                function=dense, name=merge.__name__, source=source, laws=frozenset(laws), acts_on="matrix",
                space="vector", base="required", folds=(), otherwise=otherwise, least=least, most=most,
                parameters=parameters_of(merge), spectral=Spectral(merge, wanted), check=check,
            )
        )  # fmt: skip

    return register
