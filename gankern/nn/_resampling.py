"""Pooling and padding whose second order carries no zeros: linear maps whose sizes and indices are constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankern.ops._apply import apply

_aten = torch.ops.aten
_Map = Callable[[Tensor], Tensor]
_Ints = int | Sequence[int]


class LinearMap(torch.autograd.Function):
    """A linear map and its adjoint: each is the other's gradient, to any order."""

    @staticmethod
    def forward(x: Tensor, direct: _Map, adjoint: _Map) -> Tensor:
        """Runs the map."""
        return direct(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the maps, and with them what they refer to."""
        _, ctx.map, ctx.adjoint = inputs
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None]:
        """The adjoint of grad."""
        return None if grad is None else apply(LinearMap, grad, ctx.adjoint, ctx.map), None, None


def _shape(x: Tensor) -> Callable[[], Tensor]:
    """Makes a tensor of x's shape and layout; torch's backward operators look at nothing else, and x can be freed."""
    shape, strides, options = x.shape, x.stride(), {"dtype": x.dtype, "device": x.device}
    return lambda: torch.empty_strided(shape, strides, **options)  # type: ignore[arg-type]


def _tuple(value: _Ints, n: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def avg_pool(
    n: int,
    x: Tensor,
    kernel_size: _Ints,
    stride: _Ints | None = None,
    padding: _Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average pooling over the last n dimensions, n = 2 or 3."""
    kernel = _tuple(kernel_size, n)
    window = (kernel, _tuple(stride, n) if stride else kernel, _tuple(padding, n))
    rest = (ceil_mode, count_include_pad, divisor_override)
    forward, backward = (
        (_aten.avg_pool2d, _aten.avg_pool2d_backward) if n == 2 else (_aten.avg_pool3d, _aten.avg_pool3d_backward)
    )
    like = _shape(x)
    return apply(LinearMap, x, lambda t: forward(t, *window, *rest), lambda g: backward(g, like(), *window, *rest))


def adaptive_avg_pool2d(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average pooling to a given size."""
    like, sizes = _shape(x), list(size)
    return apply(
        LinearMap,
        x,
        lambda t: _aten._adaptive_avg_pool2d(t, sizes),
        lambda g: _aten._adaptive_avg_pool2d_backward(g, like()),
    )


def max_pool(
    n: int,
    x: Tensor,
    kernel_size: _Ints,
    stride: _Ints | None = None,
    padding: _Ints = 0,
    dilation: _Ints = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Max pooling over the last n dimensions, n = 2 or 3."""
    kernel = _tuple(kernel_size, n)
    window = (kernel, _tuple(stride, n) if stride else kernel, _tuple(padding, n), _tuple(dilation, n), ceil_mode)
    forward, backward = (
        (_aten.max_pool2d_with_indices, _aten.max_pool2d_with_indices_backward)
        if n == 2
        else (_aten.max_pool3d_with_indices, _aten.max_pool3d_with_indices_backward)
    )
    like = _shape(x)
    indices = forward(x.detach(), *window)[1]
    if indices.is_contiguous():
        flat = indices.flatten(-n)

        def pick(t: Tensor) -> Tensor:
            return t.flatten(-n).gather(-1, flat).view(indices.shape)
    else:  # channels_last, as torch's result
        channels_last = indices.movedim(-n - 1, -1)
        flat = channels_last.flatten(-n - 1, -2)

        def pick(t: Tensor) -> Tensor:
            found = t.movedim(-n - 1, -1).flatten(-n - 1, -2).gather(-2, flat)
            return found.view(channels_last.shape).movedim(-1, -n - 1)

    return apply(LinearMap, x, pick, lambda g: backward(g, like(), *window, indices))


def pad(x: Tensor, widths: Sequence[int], mode: str) -> Tensor:
    """Padding by reflection ("reflect") or by the border ("replicate")."""
    like, widths = _shape(x), list(widths)
    name = {"reflect": "reflection_pad", "replicate": "replication_pad"}[mode]
    backward = getattr(_aten, f"{name}{len(widths) // 2}d_backward")
    return apply(LinearMap, x, lambda t: F.pad(t, widths, mode), lambda g: backward(g, like(), widths))
