"""How long and how fast: the numbers of a fine-tuning, checked once."""

import math
from dataclasses import dataclass
from typing import final

from taskvec.errors import ParameterError
from taskvec.suites.linearize import Derivative


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The recipe of one fine-tuning: AdamW, linear warm-up, cosine decay to zero, clipped gradients.

    `warmup` is the fraction of steps before the peak, `clip` the largest gradient norm, `seed` fixes the order of the
    examples and the start of adapters, `rank` is that of adapters. `autocast=None` runs the forward in bfloat16 where
    the regime allows it, `derivative` is how the tangent regime takes its derivatives (see `linearize`), and `ascend`
    climbs the loss, a baseline for negation. Dropout is off. The learning rate is the best of 1e-4, 2e-4 and 4e-4 on
    the validation splits of two tasks of `docs8` (differences within one standard error).

    Raises:
        ParameterError: a number is out of its range.
    """

    steps: int = 45
    batch_size: int = 32
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    seed: int = 0
    rank: int = 16
    autocast: bool | None = None
    derivative: Derivative = "forward"
    ascend: bool = False

    def __post_init__(self) -> None:
        ranges = {
            "steps": self.steps >= 1,
            "batch_size": self.batch_size >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "warmup": 0 <= self.warmup <= 1,
            "clip": self.clip > 0,
            "rank": self.rank >= 1,
            "derivative": self.derivative in ("forward", "central"),
        }
        for name, holds in ranges.items():
            if not holds:
                raise ParameterError(f"{name}={getattr(self, name)} is out of its range.")


def learning_rate_at(step: int, settings: Settings) -> float:
    """Learning rate of step 1 … steps: linear to the peak over the warm-up, then half a cosine down towards 0."""
    warm = max(1, round(settings.warmup * settings.steps))
    if step <= warm:
        return settings.learning_rate * step / warm
    progress = (step - warm) / (settings.steps - warm + 1)
    return settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
