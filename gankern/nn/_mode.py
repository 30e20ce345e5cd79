"""Applies `gankern.nn.functional` to code that knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gankern.nn import functional as zero


def _table() -> dict[Any, Callable[..., Any]]:
    def relu_(input: Tensor) -> Tensor:
        return zero.relu(input, inplace=True)

    def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
        return zero.leaky_relu(input, negative_slope, inplace=True)

    def max_pool2d(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        return zero.max_pool2d(input, *args, **kwargs)

    found: dict[Any, Callable[..., Any]] = {
        F.linear: zero.linear,
        F.relu: zero.relu,
        torch.relu: zero.relu,
        Tensor.relu: zero.relu,
        F.relu_: relu_,
        torch.relu_: relu_,
        Tensor.relu_: relu_,
        F.leaky_relu: zero.leaky_relu,
        F.leaky_relu_: leaky_relu_,
        F.prelu: zero.prelu,
        torch.prelu: zero.prelu,
        Tensor.prelu: zero.prelu,
        F.hardtanh: zero.hardtanh,
        F.relu6: zero.relu6,
        F.threshold: zero.threshold,
        torch.threshold: zero.threshold,
        torch.abs: zero.absolute,
        Tensor.abs: zero.absolute,
        torch.absolute: zero.absolute,
        Tensor.__abs__: zero.absolute,
        F.avg_pool2d: zero.avg_pool2d,
        F.avg_pool3d: zero.avg_pool3d,
        F.adaptive_avg_pool2d: zero.adaptive_avg_pool2d,
        F.max_pool2d: zero.max_pool2d,
        torch.max_pool2d: max_pool2d,
        F.max_pool3d: zero.max_pool3d,
        F.pad: zero.pad,
    }
    for name in ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
        found[getattr(torch, name)] = found[getattr(F, name)] = getattr(zero, name)
    return found


_TABLE = _table()


class zero_aware(TorchFunctionMode):
    """Within it, layers and activations of any critic run as `gankern.nn.functional` has them.

    Same values and gradients; gradients that are differentiated again cost less. For a forward pass whose scores a
    loss and `gankern.gradient_penalty(scores=, points=)` share, or for a penalty of one's own:

        with gk.nn.zero_aware():
            scores = critic(images)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        own = _TABLE.get(func)
        return func(*args, **kwargs) if own is None or "out" in kwargs else own(*args, **kwargs)
