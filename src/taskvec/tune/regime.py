"""A regime says what is trainable and how the forward runs; the loop is shared. One regime a file in `regimes/`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from taskvec.errors import ParameterError, UnknownName
from taskvec.suites import Batch, Encoder


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One fine-tuning, prepared: the leaves that the optimizer moves, the forward, and how to end.

    `parameters` are float leaf tensors that require gradients, by name. `features` gives one vector an input, a
    differentiable function of the parameters. `finish` returns the encoder whose module holds the tuned weights.
    """

    parameters: Mapping[str, Tensor]
    features: Callable[[Batch], Tensor]
    finish: Callable[[], Encoder]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """A way to fine-tune. `prepare` gets an encoder of its own, which it may change.

    `autocast` tells whether the forward may run in bfloat16.
    """

    name: str
    prepare: Callable[[Encoder], Run]
    autocast: bool


_REGIMES: dict[str, Regime] = {}


def regime(*, autocast: bool) -> Callable[[Callable[[Encoder], Run]], Regime]:
    """Registers the decorated function under its own name."""

    def register(prepare: Callable[[Encoder], Run]) -> Regime:
        made = Regime(name=prepare.__name__, prepare=prepare, autocast=autocast)
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
