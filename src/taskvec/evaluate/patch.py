"""Moving one resident model along a task vector, instead of loading a model for every scale."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from taskvec.errors import NonFiniteError, ParameterError, SchemaError, UnknownName
from taskvec.suites import Encoder
from taskvec.vector import TaskVector

Move = Callable[[float], None]


def combined(deltas: Mapping[str, Mapping[str, Tensor]], coefficients: Mapping[str, float]) -> dict[str, Tensor]:
    """Σ c_v δ_v by tensor name, over the vectors with a coefficient that is not 0."""
    total: dict[str, Tensor] = {}
    for name, factor in coefficients.items():
        for tensor, each in deltas[name].items() if factor else ():
            total[tensor] = total[tensor] + factor * each if tensor in total else factor * each
    return total


@contextlib.contextmanager
def resident(module: nn.Module, delta: Mapping[str, Tensor]) -> Iterator[Move]:
    """Yields `move(scale)`, which sets the weights to base + scale × delta; the base is what `module` holds now.

    Tensors without a delta stay as they are; on leaving, the module holds its old weights bit for bit. Scale 0 gives
    exactly the base.

    Raises:
        UnknownName: the module has no tensor of a delta's name.
        SchemaError: a delta's shape differs from its tensor's, or the tensor is not floating-point.
        NonFiniteError: a delta is not finite.
    """
    targets = _targets(module, delta)
    base = {name: tensor.detach().clone() for name, tensor in targets.items()}

    def move(scale: float) -> None:
        if not abs(scale) < float("inf"):
            raise ParameterError(f"scale={scale} is not a finite number.")
        with torch.no_grad():
            for name, tensor in targets.items():
                tensor.copy_(base[name] if scale == 0 else torch.add(base[name], delta[name], alpha=scale))

    try:
        yield move
    finally:
        move(0)


def deltas_of(encoder: Encoder, vector: TaskVector) -> dict[str, Tensor]:
    """The deltas of the tensors that the encoder has, float32, by the module's names.

    Files may hold more, e.g. an unused pooler; a vector of zeros moves nothing.

    Raises:
        SchemaError: the vector moves tensors, and none of them is the encoder's.
    """
    stored = {encoder.aliases.get(name, name): name for name in encoder.module.state_dict()}
    moving = [name for name in vector.names() if not vector.is_zero(name)]
    found = {stored[name]: vector[name] for name in moving if name in stored}
    if moving and not found:
        raise SchemaError(
            f"the model has none of the {len(moving)} tensors that the vector moves, e.g. '{moving[0]}'.",
            f"give a vector of this model, whose tensors are named like '{next(iter(stored), '')}'.",
        )
    return found


def _targets(module: nn.Module, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = module.state_dict(keep_vars=True)
    for name, change in delta.items():
        if name not in tensors:
            raise UnknownName.among(f"the model has no tensor '{name}' that the delta moves.", name, tensors)
        _check_pair(name, tensors[name], change)
    return {name: tensors[name] for name in delta}


def _check_pair(name: str, tensor: Tensor, change: Tensor) -> None:
    if tensor.shape != change.shape:
        raise SchemaError(f"the delta of '{name}' has shape {tuple(change.shape)}, the model {tuple(tensor.shape)}.")
    if not tensor.is_floating_point():
        raise SchemaError(f"the tensor '{name}' is {tensor.dtype} and cannot be moved.", "leave it out of the delta.")
    if not change.isfinite().all():
        raise NonFiniteError(f"the delta of '{name}' is not finite.")
