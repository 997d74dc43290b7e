"""What negation is compared with: a random vector of the same size, and climbing the loss (arXiv:2212.04089)."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from taskvec.evaluate.negation import Negation, negated_at, negation
from taskvec.evaluate.patch import deltas_of
from taskvec.evaluate.scoring import Prepared
from taskvec.suites import Encoder
from taskvec.vector import TaskVector


def random_like(vector: TaskVector | Mapping[str, Tensor], *, seed: int = 0) -> TaskVector:
    """A vector of random direction: every tensor Gaussian, with the norm of the given one's, in the order of names."""
    generator, drawn = torch.Generator().manual_seed(seed), {}
    names = vector.names() if isinstance(vector, TaskVector) else list(vector)
    for name in sorted(names):
        given = vector[name]
        noise = torch.randn(given.shape, generator=generator)
        norm = noise.norm()
        drawn[name] = noise * (given.float().norm() / norm) if norm > 0 else noise
    return TaskVector.from_tensors(drawn)


def negation_table(
    encoder: Encoder,
    vectors: Mapping[str, TaskVector],
    *,
    ascent: Mapping[str, TaskVector] | None = None,
    controls: Mapping[str, str],
    validation: Prepared,
    test: Prepared,
    scales: Iterable[float],
    threshold: float = 0.95,
    regime: str = "standard",
    linear: bool = False,
    autocast: bool = False,
    seed: int = 0,
) -> dict[str, Negation]:
    """What `negation` gives for the task vectors, for random ones, and what climbing the loss does, by label.

    The labels are "task vector", "random vector" and, where `ascent` is given, "gradient ascent". The random vectors go
    through the same search of scales. The vectors of gradient ascent, tuned with `Settings(ascend=True)`, are added
    whole, as the paper does: scale −1, whatever happens to the control. Other arguments and errors as in `negation`.

    Args:
        encoder: see `negation`, as for all that are not described here.
        vectors: target → the vector that is taken away.
        ascent: target → vector of climbing the target's loss.
        controls: target → control.
        validation: for the choice of scales.
        test: for the report.
        scales: the grid.
        threshold: of the control.
        regime: of the vectors.
        linear: score the model to first order.
        autocast: run the encoder in bfloat16.
        seed: of the random vectors.
    """
    grid = list(scales)

    def row(taken: Mapping[str, TaskVector]) -> Negation:
        return negation(
            encoder,
            taken,
            controls=controls,
            validation=validation,
            test=test,
            scales=grid,
            threshold=threshold,
            regime=regime,
            linear=linear,
            autocast=autocast,
        )

    noise = {
        name: random_like(deltas_of(encoder, vector), seed=seed + i) for i, (name, vector) in enumerate(vectors.items())
    }
    table = {"task vector": row(vectors), "random vector": row(noise)}
    if ascent:
        rows = [
            negated_at(encoder, vector, target, controls[target], test=test, scales=[-1.0], autocast=autocast)
            for target, vector in ascent.items()
        ]
        table["gradient ascent"] = Negation(rows=tuple(row for (row,) in rows))
    return table
