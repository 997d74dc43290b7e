"""What negation is read beside, too: fine-tuning that climbs the target's loss."""

from __future__ import annotations

from typing import Any

from taskvec.bench.given import Given
from taskvec.bench.steps import control_of, scalars, targets_of
from taskvec.bench.tuned import tuned
from taskvec.bench.work import Plain
from taskvec.errors import ParameterError
from taskvec.evaluate import negated_at


def gradient_ascent(given: Given) -> list[Plain]:
    """One more fine-tuning a target, whose vector is added whole, whatever happens to the control (arXiv:2212.04089).

    Raises:
        ParameterError: a linear regime: its loss can be climbed without end.
    """
    work, rows = given.work, []
    if work.linear:
        raise ParameterError("the baseline is of ordinary fine-tuning.", "use the regime 'standard'.")
    climbed = tuned(work, given.tuned.seed, targets_of(work), ascend=True)
    for target, vector in climbed.vectors.items():
        two = (target, control_of(work, target))

        def compute(two: Any = two, vector: Any = vector) -> Plain:
            options: dict[str, Any] = {"test": work.test(two), "scales": [-1.0], "regime": work.settings.regime}
            (row,) = negated_at(work.encoder, vector, *two, **options, autocast=True)
            return scalars("gradient ascent", row)

        parts = {**work.about(two), "vector": climbed.keys[target], "limit": work.settings.limit}
        rows.append(work.piece(f"{target} after gradient ascent", parts, compute))
    return rows
