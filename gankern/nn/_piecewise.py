"""Piecewise-linear activations whose second order carries no zeros.

A piecewise-linear function has no second derivative, but torch returns dense zeros for it, and autograd then drags
these through the whole network below. Here each function is written as a linear map of x whose coefficients are
read from a detached x: second order has no path to x at all, so nothing flows there. Values, gradients, kinks and
NaN are torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern.ops._apply import apply

_aten = torch.ops.aten


def relu(x: Tensor) -> Tensor:
    """max(0, x); keeps only its own result, as torch does."""
    return apply(Relu, x)


class Relu(torch.autograd.Function):
    """max(0, x), with the sign read from the result."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Runs torch's relu."""
        return torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the result."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Tensor | None:
        """Differentiable in grad alone."""
        if grad is None:
            return None
        (y,) = ctx.saved_tensors
        return _aten.threshold_backward.default(grad, y.detach(), 0)


def relu_(x: Tensor) -> Tensor:
    """max(0, x) in x's own memory; of -0 it makes 0, where torch keeps -0."""
    return x.masked_fill_(x.detach() <= 0, 0)


#: From so many elements on, a Function's Python costs less than the one pass that it saves.
_LARGE = 1 << 17


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    """X, or slope * x where x <= 0: torch's gradient formula applied to x itself is that function."""
    if x.numel() >= _LARGE:
        return apply(LeakyRelu, x, slope)
    return _aten.leaky_relu_backward.default(x, x.detach(), slope, False)


class LeakyRelu(torch.autograd.Function):
    """X, or slope * x where x <= 0, with the sign read from x."""

    @staticmethod
    def forward(x: Tensor, slope: float) -> Tensor:
        """Runs torch's leaky_relu."""
        return torch.nn.functional.leaky_relu(x, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps x: code after it may overwrite the result in place."""
        x, ctx.slope = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        """Differentiable in grad alone."""
        if grad is None:
            return None, None
        (x,) = ctx.saved_tensors
        return _aten.leaky_relu_backward.default(grad, x.detach(), ctx.slope, False), None


def leaky_relu_(x: Tensor, slope: float) -> Tensor:
    """The same in x's own memory, for slope > 0."""
    factor = torch.full_like(x.detach(), slope).masked_fill_(x.detach() > 0, 1)
    return x.mul_(factor)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """X, or weight * x where x <= 0; weight holds one number, or one per channel."""
    if weight.numel() != 1:
        weight = weight.view(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else weight
    else:
        weight = weight.reshape(())
    positive = x.detach() > 0
    return torch.where(positive, x, weight * x.masked_fill(positive, 0))  # the weight's gradient: 0 * inf is NaN


def hardtanh(x: Tensor, low: float, high: float) -> Tensor:
    """X clamped, with gradient 0 at the bounds themselves, as torch's hardtanh has.

    NaN passes the gradient on, as in torch's scalar code; in torch's vector instructions on the CPU it is 0 there.
    """
    fixed = x.detach()
    return torch.where((fixed <= low) | (fixed >= high), fixed.clamp(low, high), x)


def threshold(x: Tensor, bound: float, value: float) -> Tensor:
    """X, or `value` where x <= bound."""
    return torch.where(x.detach() <= bound, value, x)


def absolute(x: Tensor) -> Tensor:
    """|x|, with gradient 0 at 0."""
    return x * x.detach().sgn() + 0.0  # -0 * 0 is -0
