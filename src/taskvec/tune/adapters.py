"""Low-rank adapters of any module: matrices become W + B A where the forward reads them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from taskvec.errors import ParameterError
from taskvec.suites import Batch, Encoder
from taskvec.suites.linearize import weights_of
from taskvec.tune.regime import Run, added, trainable_parameters
from taskvec.tune.settings import Settings


def adapted(encoder: Encoder, settings: Settings, *, frozen: tuple[str, ...]) -> Run:
    """The run that trains B (m, rank) and A (rank, k) of every trainable matrix (m, k), except those in `frozen`.

    Raises:
        ParameterError: a rank above the smallest matrix, or a model without matrices.
    """
    matrices = {n: p for n, p in trainable_parameters(encoder.module).items() if p.ndim == 2}
    if not matrices:
        raise ParameterError(f"the model {type(encoder.module).__name__} has no matrix outside its embeddings.")
    smallest = min(min(each.shape) for each in matrices.values())
    if settings.rank > smallest:
        raise ParameterError(
            f"rank={settings.rank} is above {smallest}, the rank of the smallest matrix.", "give a smaller rank."
        )
    encoder.module.requires_grad_(False)
    point = weights_of(encoder.module)
    factors = _start({name: point[name] for name in matrices}, settings)

    def delta() -> dict[str, Tensor]:
        with torch.no_grad():
            return _products(factors)

    def features(batch: Batch) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # the deltas that are trained are the ones that are kept
            products = _products(factors)
        return encoder.features(batch, params={name: point[name] + each for name, each in products.items()})

    trained = {f"{name}.{role}": x for name, pair in factors.items() for role, x in pair.items() if role not in frozen}
    for each in trained.values():
        each.requires_grad_(True)
    return Run(parameters=trained, features=features, delta=delta, finish=lambda: added(encoder, delta()))


def _start(matrices: Mapping[str, Tensor], settings: Settings) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(settings.seed)
    found = {}
    for name, matrix in matrices.items():
        m, k = matrix.shape
        uniform = torch.rand(settings.rank, k, generator=generator) * 2.0 - 1.0
        found[name] = {"A": uniform / k**0.5, "B": torch.zeros(m, settings.rank)}
    return found


def _products(factors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: pair["B"] @ pair["A"] for name, pair in factors.items()}
