"""Schemas, shape functions and the autograd Functions of every order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern.backend import define, operator
from gankern.ops._apply import apply
from gankern.ops._autograd import third_order

#: Names of the penalties; the operators take their positions.
KINDS = ("two-sided", "one-sided", "zero-centered")


def _per_sample(g: Tensor) -> Tensor:
    return g.new_empty(g.shape[:1], dtype=torch.float64 if g.dtype == torch.float64 else torch.float32)


def _fake_forward(g: Tensor, kind: int, target: float) -> tuple[Tensor, Tensor]:
    return _per_sample(g), _per_sample(g)


def _fake_backward(grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float) -> Tensor:
    return g.new_empty(g.shape)


def _fake_double_backward(
    v: Tensor, grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float
) -> tuple[Tensor, Tensor]:
    return _per_sample(g), g.new_empty(g.shape)


OP = define(
    __package__ or "gankern.ops.norm_penalty",
    [
        "norm_penalty(Tensor g, int kind, float target) -> (Tensor, Tensor)",
        "norm_penalty_backward(Tensor grad, Tensor g, Tensor norm, int kind, float target) -> Tensor",
        "norm_penalty_double_backward(Tensor v, Tensor grad, Tensor g, Tensor norm, int kind, float target) "
        "-> (Tensor, Tensor)",
    ],
    {
        "norm_penalty": _fake_forward,
        "norm_penalty_backward": _fake_backward,
        "norm_penalty_double_backward": _fake_double_backward,
    },
)


class NormPenaltyFunction(torch.autograd.Function):
    """Value and norm of g."""

    @staticmethod
    def forward(g: Tensor, kind: int, target: float, backend: str) -> tuple[Tensor, Tensor]:
        """Runs the operator of one backend."""
        return operator(backend, "norm_penalty")(g, kind, target)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keeps g and its norms."""
        g, *ctx.rest = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(g, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of g, itself differentiable."""
        g, norm = ctx.saved_tensors
        return apply(NormPenaltyBackward, grad, g, norm, *ctx.rest), None, None, None


class NormPenaltyBackward(torch.autograd.Function):
    """The gradient of g, of the upstream gradient and g."""

    @staticmethod
    def forward(grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float, backend: str) -> Tensor:
        """Runs the operator of one backend."""
        return operator(backend, "norm_penalty_backward")(grad, g, norm, kind, target)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the inputs."""
        grad, g, norm, *ctx.rest = inputs
        ctx.save_for_backward(grad, g, norm)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        """The second order; a third raises."""
        dgrad, dg = apply(NormPenaltyDoubleBackward, v, *ctx.saved_tensors, *ctx.rest)
        return dgrad, dg, None, None, None, None


class NormPenaltyDoubleBackward(torch.autograd.Function):
    """Gradients of <V, dg> with respect to the upstream gradient and g."""

    @staticmethod
    def forward(
        v: Tensor, grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float, backend: str
    ) -> tuple[Tensor, Tensor]:
        """Runs the operator of one backend."""
        return operator(backend, "norm_penalty_double_backward")(v, grad, g, norm, kind, target)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keeps nothing: there is no third order."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        """Raises NotImplementedError."""
        third_order("norm_penalty")
