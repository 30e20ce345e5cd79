"""Schemas, shape functions and the autograd Functions of every order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern.backend import define, operator
from gankern.ops._autograd import third_order
from gankern.ops._checks import alike, floating, rank


def _fake_forward(m: Tensor, include_self: bool) -> Tensor:
    return m.new_empty(m.shape[:2])


def _fake_backward(grad: Tensor, m: Tensor) -> Tensor:
    return m.new_empty(m.shape)


def _fake_double_backward(v: Tensor, grad: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    return m.new_empty(m.shape[:2]), m.new_empty(m.shape)


def _check_m(name: str, m: Tensor) -> None:
    floating(name, "m", m)
    rank(name, "m", m, "(N, B, C)")


def _check_forward(m: Tensor, include_self: bool) -> None:
    _check_m("minibatch_l1", m)


def _check_backward(grad: Tensor, m: Tensor) -> None:
    _check_m("minibatch_l1_backward", m)
    alike("minibatch_l1_backward", "grad", grad, m, m.shape[:2])


def _check_double_backward(v: Tensor, grad: Tensor, m: Tensor) -> None:
    _check_m("minibatch_l1_double_backward", m)
    alike("minibatch_l1_double_backward", "grad", grad, m, m.shape[:2])
    alike("minibatch_l1_double_backward", "v", v, m, m.shape)


OP = define(
    __package__ or "gankern.ops.minibatch_l1",
    [
        "minibatch_l1(Tensor m, bool include_self) -> Tensor",
        "minibatch_l1_backward(Tensor grad, Tensor m) -> Tensor",
        "minibatch_l1_double_backward(Tensor v, Tensor grad, Tensor m) -> (Tensor, Tensor)",
    ],
    {
        "minibatch_l1": _fake_forward,
        "minibatch_l1_backward": _fake_backward,
        "minibatch_l1_double_backward": _fake_double_backward,
    },
    checks={
        "minibatch_l1": _check_forward,
        "minibatch_l1_backward": _check_backward,
        "minibatch_l1_double_backward": _check_double_backward,
    },
)


class MinibatchL1(torch.autograd.Function):
    """o of m."""

    @staticmethod
    def forward(m: Tensor, include_self: bool, backend: str) -> Tensor:
        """Runs the operator of one backend."""
        return operator(backend, "minibatch_l1")(m, include_self)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps m alone: every order recomputes from it."""
        m, _, ctx.backend = inputs
        ctx.save_for_backward(m)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """DM, itself differentiable."""
        (m,) = ctx.saved_tensors
        return MinibatchL1Backward.apply(grad, m, ctx.backend), None, None


class MinibatchL1Backward(torch.autograd.Function):
    """dM of the upstream gradient and m."""

    @staticmethod
    def forward(grad: Tensor, m: Tensor, backend: str) -> Tensor:
        """Runs the operator of one backend."""
        return operator(backend, "minibatch_l1_backward")(grad, m)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps both inputs."""
        grad, m, ctx.backend = inputs
        ctx.save_for_backward(grad, m)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor, None]:
        """The second order; a third raises."""
        grad, m = ctx.saved_tensors
        dgrad, dm = MinibatchL1DoubleBackward.apply(v, grad, m, ctx.backend)
        return dgrad, dm, None


class MinibatchL1DoubleBackward(torch.autograd.Function):
    """Gradients of <V, dM> with respect to the upstream gradient and m."""

    @staticmethod
    def forward(v: Tensor, grad: Tensor, m: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        """Runs the operator of one backend."""
        return operator(backend, "minibatch_l1_double_backward")(v, grad, m)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keeps nothing: there is no third order."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        """Raises NotImplementedError."""
        third_order("minibatch_l1")
