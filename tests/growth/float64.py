"""`all_in_float64`: run a model so that no module computes in float32, whatever its code asks for.

Many architectures raise norms, rotary angles and the softmax to float32, which rounds where the model itself is in
float64. Held back, a grown model and its source agree to 1e-12 or they are not the same function.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["all_in_float64"]


class all_in_float64(TorchFunctionMode):
    """Inside, what asks for float32 gets float64; tensors that are float32 already are raised when they are used."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].to(torch.float64)
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return func(*args, **kwargs)
