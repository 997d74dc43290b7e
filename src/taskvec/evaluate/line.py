"""The line base + scale × delta, along which every protocol scores: of the model itself, or of it to first order."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from taskvec.evaluate.affine import affine_along
from taskvec.evaluate.patch import resident
from taskvec.evaluate.scores import Scores
from taskvec.evaluate.scoring import Prepared, score
from taskvec.suites import Encoder

Line = Callable[[float], Scores]


@contextlib.contextmanager
def line(
    encoder: Encoder,
    prepared: Prepared,
    delta: Mapping[str, Tensor],
    *,
    regime: str = "standard",
    linear: bool = False,
    autocast: bool = False,
) -> Iterator[Line]:
    """Yields `at(scale)`, the scores of base + scale × delta on the prepared inputs.

    Args:
        encoder: the base; it is moved, not copied, and has its weights back on leaving.
        prepared: the inputs.
        delta: name → float32 tensor; names that are missing do not move.
        regime: recorded with the scores.
        linear: the model to first order in its weights, as linear regimes train it: one pass, whatever the scales.
        autocast: run the encoder in bfloat16; not where it is linear.

    Raises:
        UnknownName, SchemaError: a delta that the model does not fit. NonFiniteError: a feature is not finite.
    """
    if linear:
        found = affine_along(encoder, prepared, {"delta": delta}, regime=regime)
        yield lambda scale: found.scores({"delta": scale})
        return
    with resident(encoder.module, delta) as move:

        def at(scale: float) -> Scores:
            move(scale)
            return score(encoder, prepared, regime=regime, autocast=autocast)

        yield at
