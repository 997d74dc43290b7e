"""A stand-in for a device: its tensors have data, and refuse those of the CPU and to be read as arrays of NumPy."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves

_MAKERS = _device_constructors()


class There(torch.Tensor):
    """A tensor that lies elsewhere."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
            if any(x.ndim and not isinstance(x, There) for x in given):
                raise AssertionError(f"{func} combines tensors of two devices.")
            if func is torch.Tensor.cpu:
                return args[0].as_subclass(torch.Tensor)
        if func is torch.Tensor.numpy:
            raise AssertionError(f"{func} of a tensor that is not on the CPU.")
        if func == torch.Tensor.is_cpu.__get__:
            return False
        return super().__torch_function__(func, types, args, kwargs)


class Elsewhere(TorchFunctionMode):
    """As `with torch.device(…)`: what is made within, lies there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return made.as_subclass(There) if func in _MAKERS else made
