"""A regime says what is trainable and how the forward runs; the loop is shared. One regime a file in `regimes/`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from taskvec.errors import ParameterError, UnknownName
from taskvec.suites import Batch, Encoder
from taskvec.tune.settings import Settings


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One fine-tuning, prepared: the leaves that the optimizer moves, the forward, and how to end.

    `parameters` are float leaf tensors that require gradients, by name; what the optimizer decays. `features` gives one
    vector an input, a differentiable function of the parameters. `delta` is the task vector so far: float32, by the
    names of the module's tensors. `finish` returns the encoder whose module holds base + delta.
    """

    parameters: Mapping[str, Tensor]
    features: Callable[[Batch], Tensor]
    delta: Callable[[], Mapping[str, Tensor]]
    finish: Callable[[], Encoder]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """A way to fine-tune. `prepare` gets an encoder of its own, which it may change, and the settings.

    `autocast` tells whether the forward may run in bfloat16, `linear` that the features are affine in the delta (of the
    model to first order, on which its vectors are then evaluated), `pair` that what is kept is the base and a task
    vector, not a model of its own.
    """

    name: str
    prepare: Callable[[Encoder, Settings], Run]
    autocast: bool
    linear: bool
    pair: bool


_REGIMES: dict[str, Regime] = {}


Prepare = Callable[[Encoder, Settings], Run]


def regime(*, autocast: bool, linear: bool = False, pair: bool = False) -> Callable[[Prepare], Regime]:
    """Registers the decorated function under its own name."""

    def register(prepare: Prepare) -> Regime:
        made = Regime(name=prepare.__name__, prepare=prepare, autocast=autocast, linear=linear, pair=pair)
        _REGIMES[made.name] = made
        return made

    return register


def regime_of(name: str) -> Regime:
    """The regime of that name.

    Raises:
        UnknownName: there is none; the nearest name is suggested.
    """
    if name not in _REGIMES:
        raise UnknownName.among(f"there is no fine-tuning regime '{name}'.", name, _REGIMES)
    return _REGIMES[name]


def regime_names() -> tuple[str, ...]:
    """The registered regimes, in alphabetical order."""
    return tuple(sorted(_REGIMES))


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The floating-point parameters outside every `nn.Embedding`, by name.

    Embedding tables (words, positions, token types) stay frozen: they are most of a small encoder's bytes, and few
    of their rows occur in a task. The rule looks at module types, never at names.

    Raises:
        ParameterError: nothing is left to train.
    """
    tables = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    found = {n: p for n, p in module.named_parameters() if id(p) not in tables and p.is_floating_point()}
    if not found:
        raise ParameterError(f"the model {type(module).__name__} has no trainable parameter outside its embeddings.")
    return found


def added(encoder: Encoder, delta: Mapping[str, Tensor]) -> Encoder:
    """The encoder with `delta` added to its own weights."""
    own = encoder.module.state_dict()
    with torch.no_grad():
        for name, change in delta.items():
            own[name].add_(change)
    return encoder


def trained_in_place(encoder: Encoder, parameters: Mapping[str, nn.Parameter]) -> Run:
    """The run that moves these parameters of the module itself, and nothing else."""
    encoder.module.requires_grad_(False)
    start = {name: each.detach().clone() for name, each in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return Run(
        parameters=parameters,
        features=encoder.features,
        delta=lambda: {name: each.detach() - start[name] for name, each in parameters.items()},
        finish=lambda: encoder,
    )
