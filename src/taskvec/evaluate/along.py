"""Scores along a task vector: base + scale × delta for many scales, of the model itself or of it to first order."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from taskvec.evaluate.affine import affine
from taskvec.evaluate.patch import resident
from taskvec.evaluate.scores import Scores
from taskvec.evaluate.scoring import Prepared, score
from taskvec.suites import Encoder


def scores_along(
    encoder: Encoder,
    prepared: Prepared,
    delta: Mapping[str, Tensor],
    scales: Iterable[float],
    *,
    regime: str = "standard",
    linear: bool = False,
    autocast: bool = False,
) -> list[tuple[float, Scores]]:
    """(scale, scores) of every scale; one resident model is moved, and has its weights back afterwards.

    With `linear`, the scores are those of f(x; θ0) + scale · J(x) τ: one pass gives all scales.

    Raises:
        UnknownName, SchemaError: the delta does not fit the model. NonFiniteError: a feature is not finite.
    """
    if linear:
        found = affine(encoder, prepared, {"delta": delta}, regime=regime)
        return [(scale, found.scores({"delta": scale})) for scale in scales]
    rows = []
    with resident(encoder.module, delta) as move:
        for scale in scales:
            move(scale)
            rows.append((scale, score(encoder, prepared, regime=regime, autocast=autocast)))
    return rows
