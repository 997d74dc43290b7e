"""The loss of a task as a function of the weights: values, gradients and Hessian–vector products over all inputs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from taskvec.errors import NonFiniteError, ParameterError
from taskvec.evaluate.scoring import PreparedTask
from taskvec.suites import Batch, Bucketed, Encoder
from taskvec.suites.linearize import Weights, check_direction, check_inference, plain_attention, weights_of

Loss = Callable[[Float[Tensor, "batch dim"], Int[Tensor, " batch"]], Tensor]
"""From features and their positions among the inputs to the sum of the inputs' losses."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """L(θ0 + offset), the mean loss of the inputs; θ0 are the encoder's weights, offsets are by parameter name.

    Gradients and products are with respect to `names`; parameters outside them stay at θ0.
    """

    encoder: Encoder
    inputs: Bucketed
    loss: Loss
    names: tuple[str, ...]

    def value(self, offset: Weights) -> float:
        """L at the offset."""
        with torch.inference_mode(False), torch.no_grad():
            point = self._point(offset)
            return _finite(sum(float(part) for part in self._parts(point)), "loss")

    def gradient(self, offset: Weights) -> dict[str, Tensor]:
        """∇L at the offset."""
        with torch.inference_mode(False), torch.enable_grad():
            point = self._point(offset)
            leaves = [point[name] for name in self.names]
            total = [torch.zeros_like(leaf) for leaf in leaves]
            for part in self._parts(point):
                _add(total, torch.autograd.grad(part, leaves, allow_unused=True))
        return dict(zip(self.names, total, strict=True))

    def hessian_product(self, offset: Weights, vector: Weights) -> dict[str, Tensor]:
        """∇²L(θ0 + offset) · vector: the gradient of (∇L · vector), with attention on its plain kernel."""
        with torch.inference_mode(False), torch.enable_grad(), plain_attention():
            point = self._point(offset)
            leaves = [point[name] for name in self.names]
            total = [torch.zeros_like(leaf) for leaf in leaves]
            for part in self._parts(point):
                slopes = torch.autograd.grad(part, leaves, allow_unused=True, create_graph=True)
                along = [(s * vector[n]).sum() for s, n in zip(slopes, self.names, strict=True) if s is not None]
                slope = sum(along, torch.zeros(()))
                if slope.requires_grad:  # else the loss is linear in all of them
                    _add(total, torch.autograd.grad(slope, leaves, allow_unused=True))
        return dict(zip(self.names, total, strict=True))

    def _point(self, offset: Weights) -> dict[str, Tensor]:
        point = weights_of(self.encoder.module)
        check_direction({name: point[name] for name in self.names}, offset)
        moved = {name: point[name] + offset[name] if name in offset else point[name].clone() for name in self.names}
        return point | {name: each.requires_grad_(torch.is_grad_enabled()) for name, each in moved.items()}

    def _parts(self, point: Weights) -> Iterable[Tensor]:
        """The batches' shares of L, one after another."""
        count = sum(len(positions) for positions in self.inputs.positions)
        for batch, positions in zip(self.inputs.batches, self.inputs.positions, strict=True):
            yield self._sum(batch, positions, point) / count

    def _sum(self, batch: Batch, positions: Tensor, point: Weights) -> Tensor:
        return self.loss(self.encoder.features(batch, params=point), positions)


def objective_of(encoder: Encoder, task: PreparedTask, *, names: Iterable[str]) -> Objective:
    """The mean cross-entropy of a task's labels under its head, in nats.

    Raises:
        ParameterError: no parameter is named, or dropout or batch normalization in training mode.
    """
    check_inference(encoder.module)
    chosen = tuple(names)
    if not chosen:
        raise ParameterError("a loss as a function of no parameter is a number.", "name at least one parameter.")

    def loss(features: Tensor, positions: Tensor) -> Tensor:
        return nn.functional.cross_entropy(task.head.logits(features), task.labels[positions], reduction="sum")

    return Objective(encoder=encoder, inputs=task.inputs, loss=loss, names=chosen)


def dot(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Σ over common names of the inner products, in float64.

    Raises:
        NonFiniteError: the sum is not finite.
    """
    return _finite(sum(float((x.double() * second[n]).sum()) for n, x in first.items() if n in second), "inner product")


def _add(total: Iterable[Tensor], parts: Iterable[Tensor | None]) -> None:
    for whole, part in zip(total, parts, strict=True):
        if part is not None:
            whole.add_(part)


def _finite(value: float, what: str) -> float:
    if not abs(value) < float("inf"):
        raise NonFiniteError(f"the {what} is {value}.", "check the weights for NaN and Inf; a smaller step may help.")
    return value
