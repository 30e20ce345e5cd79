"""Schemas, shape functions and the autograd Functions of every order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern.backend import define, operator
from gankern.ops._apply import apply
from gankern.ops._autograd import third_order


def _fake_forward(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return real.new_empty(real.shape)


def _fake_backward(grad: Tensor, real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return real.new_empty(real.shape), real.new_empty(real.shape), alpha.new_empty(alpha.shape)


def _fake_double_backward(
    vr: Tensor, vf: Tensor, va: Tensor, grad: Tensor, real: Tensor, fake: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = real.shape
    return real.new_empty(shape), real.new_empty(shape), real.new_empty(shape), alpha.new_empty(alpha.shape)


OP = define(
    __package__ or "gankern.ops.interpolate",
    [
        "interpolate(Tensor real, Tensor fake, Tensor alpha) -> Tensor",
        "interpolate_backward(Tensor grad, Tensor real, Tensor fake, Tensor alpha) -> (Tensor, Tensor, Tensor)",
        "interpolate_double_backward(Tensor vr, Tensor vf, Tensor va, Tensor grad, Tensor real, Tensor fake, "
        "Tensor alpha) -> (Tensor, Tensor, Tensor, Tensor)",
    ],
    {
        "interpolate": _fake_forward,
        "interpolate_backward": _fake_backward,
        "interpolate_double_backward": _fake_double_backward,
    },
)


class Interpolate(torch.autograd.Function):
    """x of real, fake and alpha."""

    @staticmethod
    def forward(real: Tensor, fake: Tensor, alpha: Tensor, backend: str) -> Tensor:
        """Runs the operator of one backend."""
        return operator(backend, "interpolate")(real, fake, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the inputs."""
        *tensors, ctx.backend = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs, themselves differentiable."""
        return *apply(InterpolateBackward, grad, *ctx.saved_tensors, ctx.backend), None


class InterpolateBackward(torch.autograd.Function):
    """Gradients of real, fake and alpha, of the upstream gradient and those three."""

    @staticmethod
    def forward(grad: Tensor, real: Tensor, fake: Tensor, alpha: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the operator of one backend."""
        return operator(backend, "interpolate_backward")(grad, real, fake, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps the inputs."""
        *tensors, ctx.backend = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, vr: Tensor, vf: Tensor, va: Tensor) -> tuple[Tensor | None, ...]:
        """The second order; a third raises."""
        return *apply(InterpolateDoubleBackward, vr, vf, va, *ctx.saved_tensors, ctx.backend), None


class InterpolateDoubleBackward(torch.autograd.Function):
    """Gradients of <(Vr, Vf, va), (dr, df, da)> with respect to the upstream gradient, real, fake and alpha."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Runs the operator of one backend."""
        *tensors, backend = arguments
        return operator(backend, "interpolate_double_backward")(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps nothing: there is no third order."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        """Raises NotImplementedError."""
        third_order("interpolate")
