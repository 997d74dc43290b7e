"""Plain modules that read texts as counts of letters: small enough for explicit Jacobians and Hessians."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from taskvec.suites import Batch, ModuleEncoder

WORDS = ("red dog", "blue cat", "a green horse", "yellow", "some mouse", "two birds", "no color", "zebra")


def counts(name: str = "input") -> Callable[[Sequence[str]], Batch]:
    """A reader: how often each of the first eight letters occurs, float64."""

    def read(inputs: Sequence[str]) -> Batch:
        return {name: torch.tensor([[float(t.count(c)) for c in "abcdefgh"] for t in inputs], dtype=torch.float64)}

    return read


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 and in inference mode, with weights drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for parameter in module.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def mlp(out: int = 3, seed: int = 0) -> ModuleEncoder:
    """8 → 5 → out with tanh."""
    return ModuleEncoder(
        module=seeded(nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, out)), seed), read=counts()
    )


def jacobian(encoder: ModuleEncoder, inputs: Sequence[str], projection: Tensor | None = None) -> Tensor:
    """J of all parameters, (inputs × outputs, parameters), by reverse mode through the plain module."""
    batch = encoder.batch(inputs)

    def outputs(weights: dict[str, Tensor]) -> Tensor:
        found = encoder.features(batch, params=weights)
        return (found if projection is None else found @ projection).flatten()

    point = {n: p.detach() for n, p in encoder.module.named_parameters()}
    found = torch.func.jacrev(outputs)(point)
    return torch.cat([found[name].flatten(1) for name in point], dim=1)


def flat(weights: dict[str, Tensor]) -> Tensor:
    """All tensors in one vector, in order."""
    return torch.cat([each.flatten() for each in weights.values()])
