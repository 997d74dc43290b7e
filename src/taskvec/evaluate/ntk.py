"""The neural tangent kernel K = J Jᵀ of an encoder on some inputs, by its products alone: J is never formed."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taskvec.errors import ParameterError, UnknownName
from taskvec.ops.krylov import Eigenpairs, largest_eigenpairs
from taskvec.suites import Batch, Bucketed, Encoder, bucketed
from taskvec.suites.linearize import Derivative, Weights, along, check_inference, weights_of


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """K((x, i), (x', j)) = ∇f_i(x) · ∇f_j(x') at the encoder's weights, for n inputs and k outputs an input.

    f is the feature, times `projection` (dim, k) where there is one: a column picks one logit or a random direction.
    Its vectors are (n, k) tensors, in the order of the inputs; `start` is f itself. One product is one backward and one
    forward-mode pass over the inputs.
    """

    encoder: Encoder
    inputs: Bucketed
    names: tuple[str, ...]
    projection: Float[Tensor, "dim out"] | None
    derivative: Derivative
    start: Float[Tensor, "input out"]

    @property
    def size(self) -> int:
        """N · k, the length of the kernel's vectors."""
        return self.start.numel()

    def pull(self, cotangent: Float[Tensor, "input out"]) -> dict[str, Tensor]:
        """Jᵀ v: parameter name → tensor of its shape."""
        point = weights_of(self.encoder.module)
        total = {name: torch.zeros_like(point[name]) for name in self.names}
        for batch, positions in self._batches():
            with torch.inference_mode(False), torch.enable_grad():
                leaves = {name: point[name].clone().requires_grad_(True) for name in self.names}
                value = self._outputs(batch, {**point, **leaves})
                rows = cotangent[positions].to(value)
                found = torch.autograd.grad(value, list(leaves.values()), rows, allow_unused=True)
            for name, gradient in zip(leaves, found, strict=True):
                if gradient is not None:
                    total[name] += gradient
        return total

    def push(self, tau: Mapping[str, Tensor]) -> Float[Tensor, "input out"]:
        """J τ; names that are missing do not move."""
        point, moved = weights_of(self.encoder.module), torch.empty_like(self.start)
        for batch, positions in self._batches():
            _, move = along(functools.partial(self._outputs, batch), point, tau, derivative=self.derivative)
            moved[positions] = move
        return moved

    def product(self, vector: Float[Tensor, "input out"]) -> Float[Tensor, "input out"]:
        """K v = J (Jᵀ v)."""
        return self.push(self.pull(vector))

    def trace_product(self, vector: Float[Tensor, " input"]) -> Float[Tensor, " input"]:
        """The product with the n × n kernel Σ_i ∇f_i(x) · ∇f_i(x'): k products."""
        total = torch.zeros_like(self.start[:, 0])
        for i in range(self.start.shape[1]):
            alone = torch.zeros_like(self.start)
            alone[:, i] = vector
            total += self.product(alone)[:, i]
        return total

    def eigenpairs(
        self, count: int, *, trace: bool = False, tolerance: float = 1e-3, budget: int | None = None, seed: int = 0
    ) -> Eigenpairs:
        """The largest eigenpairs, vectors flattened from (n, k), or from (n,) for the trace kernel.

        Options as in `largest_eigenpairs`.
        """
        shape = self.start[:, 0].shape if trace else self.start.shape
        multiply = self.trace_product if trace else self.product
        return largest_eigenpairs(
            lambda v: multiply(v.view(shape).to(self.start)).flatten().double(),
            shape.numel(),
            count,
            tolerance=tolerance,
            budget=budget,
            seed=seed,
        )

    def _batches(self) -> Iterable[tuple[Batch, Tensor]]:
        return zip(self.inputs.batches, self.inputs.positions, strict=True)

    def _outputs(self, batch: Batch, weights: Weights) -> Tensor:
        features = self.encoder.features(batch, params=weights)
        return features if self.projection is None else features @ self.projection.to(features)


def kernel_of(
    encoder: Encoder,
    inputs: Bucketed | Sequence[str],
    *,
    names: Iterable[str] | None = None,
    projection: Float[Tensor, "dim out"] | None = None,
    derivative: Derivative = "forward",
) -> Kernel:
    """The kernel of the encoder, as it is now, on some inputs (arXiv:2305.12827, section 5, on the features).

    Args:
        encoder: any encoder in inference mode; keep its weights while the kernel is used.
        inputs: of its kind, or batches of them.
        names: the parameters that count, e.g. those that a vector moves; None: all floating-point ones.
        projection: (dim, k) from features to outputs; None: the features themselves.
        derivative: see `linearize`.

    Raises:
        ParameterError: no inputs, no parameters, or dropout or batch normalization in training mode.
        UnknownName: a parameter that the encoder does not have.
    """
    check_inference(encoder.module)
    point = weights_of(encoder.module)
    chosen = tuple(point if names is None else names)
    for name in chosen:
        if name not in point:
            raise UnknownName.among(f"the model has no floating-point parameter '{name}'.", name, point)
    prepared = inputs if isinstance(inputs, Bucketed) else bucketed(encoder, inputs)
    if not prepared.batches or not chosen:
        raise ParameterError(f"a kernel of {len(prepared.batches)} batches and {len(chosen)} parameters is empty.")
    return Kernel(
        encoder=encoder,
        inputs=prepared,
        names=chosen,
        projection=projection,
        derivative=derivative,
        start=_start(encoder, prepared, projection),
    )


def _start(encoder: Encoder, inputs: Bucketed, projection: Tensor | None) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        features = torch.cat([encoder.features(batch) for batch in inputs.batches])
        features = features if projection is None else features @ projection.to(features)
        return features[torch.cat(list(inputs.positions)).argsort()]
