"""On which device methods run; readers, statistics, sums of inputs and writers stay on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskvec.errors import ParameterError

if TYPE_CHECKING:
    import torch

CPU = "cpu"


def device_of(name: str) -> torch.device | None:
    """The device of that name; None for "cpu", where methods run as compiled loops if they have such.

    Raises:
        ParameterError: it is not here, or cannot compute in float64.
    """
    if name == CPU:
        return None
    import torch

    try:
        device = torch.device(name)
        torch.ones(1, dtype=torch.float64, device=device).item()
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ParameterError(
            f"the device '{name}' cannot be used here: {reason}.", "leave device out (--device), or set it to cpu."
        ) from error
    return device
