"""A model to first order in its weights: f_lin(x; θ0 + τ) = f(x; θ0) + J(x) τ (arXiv:2305.12827).

The derivative along τ is taken in forward mode and builds no graph. Its gradient is exact all the same: the gradient of
loss(f_lin) with respect to τ is J(x)ᵀ g with g = ∂loss/∂f at f_lin, which is one ordinary backward pass at θ0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from taskvec.errors import ParameterError, SchemaError, UnknownName
from taskvec.suites.encoder import Batch, Encoder

Weights = Mapping[str, Tensor]
Derivative = Literal["forward", "central"]
STEP = 1e-2
"""Of the central difference, in units of τ: about the cube root of float32's precision for τ of a fine-tuning."""


def along(
    function: Callable[[Weights], Tensor], point: Weights, direction: Weights, *, derivative: Derivative = "forward"
) -> tuple[Tensor, Tensor]:
    """The value of a function of weights at `point`, and its derivative along `direction`, without a graph.

    Args:
        function: a differentiable function from weights by name to a tensor.
        point: θ0.
        direction: τ; names that are missing do not move.
        derivative: "forward" is exact (attention runs on the plain kernel, the only one with forward derivatives);
            "central" is the difference of two ordinary forwards, 2 · STEP apart, for modules without them.

    Raises:
        ParameterError: the function has no forward-mode derivative.
    """
    moved = {name: point[name] for name in direction}
    fixed = {name: tensor for name, tensor in point.items() if name not in direction}
    with torch.inference_mode(False), torch.no_grad():
        if not direction:
            value = function(point)
            return value, torch.zeros_like(value)
        if derivative == "central":
            return function(point), _central(function, point, direction)
        with plain_attention():
            try:
                found = torch.func.jvp(lambda some: function({**fixed, **some}), (moved,), (dict(direction),))
            except (NotImplementedError, RuntimeError) as error:
                raise _no_derivative(error) from error
    return found[0], found[1]


def _no_derivative(error: Exception) -> Exception:
    if "forward AD" not in str(error) and "forward mode AD" not in str(error):
        return error
    reason = str(error).partition("\n")[0]
    return ParameterError(
        f"the model has no forward-mode derivative: {reason}",
        'use the plain ("eager") attention of the model, or derivative="central".',
    )


def _central(function: Callable[[Weights], Tensor], point: Weights, direction: Weights) -> Tensor:
    ahead, behind = (
        function({**point, **{name: point[name] + sign * STEP * tau for name, tau in direction.items()}})
        for sign in (1.0, -1.0)
    )
    return (ahead - behind) / (2.0 * STEP)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Scaled dot-product attention by its plain kernel inside; the fused ones have no forward-mode derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


class _FirstOrder(torch.autograd.Function):
    """function(point) + derivative along τ; backward is that of `function` at `point`."""

    @staticmethod
    def forward(ctx: Any, function: Any, point: Weights, derivative: Derivative, names: Any, *tau: Tensor) -> Tensor:
        direction = {name: each.detach() for name, each in zip(names, tau, strict=True)}
        value, tangent = along(function, point, direction, derivative=derivative)
        ctx.function, ctx.point, ctx.names = function, point, names
        return value + tangent

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        leaves = {name: ctx.point[name].detach().requires_grad_(True) for name in ctx.names}
        with torch.enable_grad():
            value = ctx.function({**ctx.point, **leaves})
        found = torch.autograd.grad(value, list(leaves.values()), cotangents[0], allow_unused=True)
        grads = (torch.zeros_like(x) if g is None else g for x, g in zip(leaves.values(), found, strict=True))
        return (None, None, None, None, *grads)


def first_order(
    function: Callable[[Weights], Tensor], point: Weights, tau: Weights, *, derivative: Derivative = "forward"
) -> Tensor:
    """function(point) + (derivative along τ), differentiable with respect to τ (and to nothing else)."""
    names = tuple(tau)
    result: Tensor = _FirstOrder.apply(function, point, derivative, names, *tau.values())  # type: ignore[no-untyped-call]
    return result


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Linearized:
    """f_lin of a module at its weights; call it with inputs and τ."""

    module: nn.Module
    output: Callable[[Any], Tensor]
    derivative: Derivative

    def __call__(self, inputs: Any, tau: Weights) -> Tensor:
        """f(inputs; θ0) + J(inputs) τ, differentiable with respect to τ.

        Args:
            inputs: a mapping (keyword arguments), a tuple (positional ones) or a tensor (the only one).
            tau: name → tensor of the shape of the parameter; missing names count as zero.

        Raises:
            UnknownName, SchemaError: a name or shape that is no floating-point parameter's.
            ParameterError: the module has no forward-mode derivative.
        """
        point = weights_of(self.module)
        check_direction(point, tau)
        args = () if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else (inputs,)
        kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}

        def function(weights: Weights) -> Tensor:
            return self.output(torch.func.functional_call(self.module, dict(weights), args, kwargs))

        return first_order(function, point, tau, derivative=self.derivative)


def linearize(
    module: nn.Module, *, output: Callable[[Any], Tensor] | None = None, derivative: Derivative = "forward"
) -> Linearized:
    """The module to first order around its present weights; any module whose output is, or holds, one tensor.

    Args:
        module: in inference mode as far as it has dropout or batch normalization.
        output: takes the tensor out of the module's output; default: the output itself.
        derivative: "forward" (exact) or "central" (for modules without forward-mode derivatives).

    Raises:
        ParameterError: dropout or batch normalization in training mode.
    """
    check_inference(module)
    return Linearized(module=module, output=output or _tensor, derivative=derivative)


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise ParameterError(
            f"the module returns {type(output).__name__}, not a tensor.",
            "give output=…, e.g. lambda o: o.last_hidden_state[:, 0].",
        )
    return output


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The floating-point parameters by name, detached; they share memory with the module."""
    return {n: p.detach() for n, p in module.named_parameters() if p.is_floating_point()}


def check_inference(module: nn.Module) -> None:
    """Refuse a module whose forward is random or changes its buffers.

    Raises:
        ParameterError: dropout or batch normalization in training mode; names it.
    """
    for name, each in module.named_modules():
        noisy = isinstance(each, nn.modules.dropout._DropoutNd) and each.p > 0
        if each.training and (noisy or isinstance(each, nn.modules.batchnorm._NormBase)):
            raise ParameterError(
                f"the module '{name}' ({type(each).__name__}) is in training mode, so its output is not a function of "
                "the weights.",
                "call .eval() first.",
            )


def check_direction(point: Weights, tau: Weights) -> None:
    """Refuse a τ that moves what the model does not have.

    Raises:
        UnknownName: no such parameter. SchemaError: another shape.
    """
    for name, each in tau.items():
        if name not in point:
            raise UnknownName.among(f"the model has no floating-point parameter '{name}'.", name, point)
        if each.shape != point[name].shape:
            raise SchemaError(f"τ of '{name}' has shape {tuple(each.shape)}, the parameter {tuple(point[name].shape)}.")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LinearizedEncoder:
    """An encoder whose features are those of `origin` to first order, moved by `tau`; scored like any encoder."""

    origin: Encoder
    tau: Weights
    derivative: Derivative = "forward"

    @property
    def module(self) -> nn.Module:
        """The module at θ0."""
        return self.origin.module

    @property
    def aliases(self) -> Mapping[str, str]:
        """Those of `origin`."""
        return self.origin.aliases

    def batch(self, inputs: Any) -> Batch:
        """See `TextEncoder`."""
        return self.origin.batch(inputs)

    def features(self, batch: Batch, *, params: Weights | None = None) -> Tensor:
        """f0 + J τ; with `params` as τ instead, differentiable with respect to it."""
        tau = self.tau if params is None else params
        point = weights_of(self.origin.module)
        check_direction(point, tau)
        return first_order(
            lambda weights: self.origin.features(batch, params=weights), point, tau, derivative=self.derivative
        )

    def parts(self, batch: Batch, tau: Weights) -> tuple[Tensor, Tensor]:
        """f0 and J τ: the features of every multiple of τ are sums of these."""
        point = weights_of(self.origin.module)
        check_direction(point, tau)
        return along(
            lambda weights: self.origin.features(batch, params=weights), point, tau, derivative=self.derivative
        )

    def duplicate(self) -> Self:
        """The same with a copy of the module."""
        return replace(self, origin=self.origin.duplicate())

    def encode(self, inputs: Any) -> Tensor:
        """L2-normalized features, without gradients."""
        with torch.no_grad():
            return nn.functional.normalize(self.features(self.batch(inputs)), dim=-1)

    def embed(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors of class phrases, by the model at θ0."""
        return self.origin.embed(phrases)

    def save(self, folder: str | Path) -> Path:
        """Writes the ordinary model at θ0 + τ."""
        moved = self.origin.duplicate()
        own = moved.module.state_dict()
        with torch.no_grad():
            for name, each in self.tau.items():
                own[name].add_(each)
        return moved.save(folder)
