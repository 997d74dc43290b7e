"""The rules by which a scale is chosen, as pure functions of validation results."""

from collections.abc import Sequence

from taskvec.errors import ParameterError

BEST_MEAN_RULE = "largest mean normalized validation accuracy, the smallest scale of equals"
ACCURACY_RULE = "largest mean validation accuracy, the smallest scale of equals"
NEGATION_RULE = (
    "lowest target accuracy with control ≥ threshold × its accuracy at scale 0, the smallest scale of equals"
)


def choose_best(scales: Sequence[float], values: Sequence[float]) -> float:
    """The scale with the largest value; of equals the one nearest to 0.

    Raises:
        ParameterError: the grid is empty, or not every scale has one value.
    """
    _check_lengths(scales, values)
    return max(zip(scales, values, strict=True), key=lambda pair: (pair[1], -abs(pair[0])))[0]


def around(scales: Sequence[float], best: float, count: int) -> list[float]:
    """`count` scales evenly between `best` and its neighbors in the grid, the smaller ones first.

    Beyond the largest of the grid there is a neighbor at the distance of the one before; below the smallest, 0.

    Raises:
        ParameterError: a negative count.
    """
    if count < 0:
        raise ParameterError(f"refine={count} is negative.", "give 0 or more.")
    ordered = sorted({0.0, *scales})
    at = ordered.index(best)
    below = ordered[at - 1] if at > 0 else best
    above = ordered[at + 1] if at + 1 < len(ordered) else 2 * best - below
    left, right = count // 2, count - count // 2
    found = [below + (best - below) * i / (left + 1) for i in range(1, left + 1)]
    found += [best + (above - best) * i / (right + 1) for i in range(1, right + 1)]
    return [round(scale, 6) for scale in found if scale not in ordered]


def choose_negation(
    scales: Sequence[float], targets: Sequence[float], controls: Sequence[float], *, threshold: float = 0.95
) -> float:
    """The scale with the lowest target accuracy among those that keep the control; of equals the one nearest to 0.

    A scale keeps the control if its control accuracy is at least `threshold` times that at scale 0. Scale 0 always
    does, so the result is 0 when no other scale does.

    Raises:
        ParameterError: the grid lacks 0, or not every scale has two values, or the threshold is outside [0, 1].
    """
    _check_lengths(scales, targets)
    _check_lengths(scales, controls)
    if 0 not in scales:
        raise ParameterError(
            f"the grid of scales {list(scales)} lacks 0, where the control's base accuracy is measured.", "add 0 to it."
        )
    if not 0 <= threshold <= 1:
        raise ParameterError(f"threshold={threshold} is outside [0, 1].")
    least = threshold * controls[list(scales).index(0)]
    kept = [
        (target, abs(scale), scale)
        for scale, target, control in zip(scales, targets, controls, strict=True)
        if control >= least
    ]
    return min(kept)[2]


def _check_lengths(scales: Sequence[float], values: Sequence[float]) -> None:
    if not scales:
        raise ParameterError("the grid of scales is empty.", "give at least one scale.")
    if len(scales) != len(values):
        raise ParameterError(f"{len(scales)} scales have {len(values)} values.")
