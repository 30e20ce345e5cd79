"""Convolutions and matrix products whose derivatives of every order are again plain convolutions and products.

Each is bilinear in its two operands, so all its derivatives are contractions of the same three tensors: the output
or its gradient, the input, and the weight. torch's own convolution is zero-free at second order too, but writes the
weight gradient of that order as a dilated convolution, which is slow; here it is an ordinary weight gradient.

A derivative is computed only if the running backward pass asks for it: `torch.autograd.grad(scores, inputs)` then
costs no weight gradients. What is not asked for is left out, and so is any gradient that would be exactly zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern.ops._apply import apply
from gankern.ops._checks import autocast

_aten = torch.ops.aten

#: stride, padding, dilation, transposed, output_padding, groups, as torch.convolution takes them.
Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, tuple[int, ...], int]


def _asked(ctx: Any, index: int) -> bool:
    """Whether the running backward pass will use the gradient of this input."""
    if not ctx.needs_input_grad[index]:
        return False
    node = ctx.next_functions[index][0]
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except (AttributeError, RuntimeError):
        # torch refuses to answer for a leaf that torch.autograd.grad was given: it does want it.
        return True


def _without_autocast(function: Any, x: Tensor, *arguments: Any) -> Any:
    """`function(x, *arguments)`."""
    if autocast(x):
        with torch.autocast(x.device.type, enabled=False):
            return function(x, *arguments)
    return function(x, *arguments)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    return _without_autocast(torch.convolution, x, weight, bias, *geometry)


#: Up to so many channels, torch's own input gradient is faster than oneDNN's, which computes whole vectors of them.
FEW_CHANNELS = 4


def _of_an_image(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether torch's own kernel computes this input gradient in half of oneDNN's time or less.

    So it is for a critic's first layer on the CPU, whose input gradient only a penalty needs. torch's kernel holds a
    matrix of all patches; it must not be much larger than grad, of which oneDNN makes a copy.
    """
    _, _, dilation, transposed, _, groups = geometry
    return (
        type(grad) is Tensor  # while tracing, it is another
        and x.shape[1] <= FEW_CHANNELS
        and grad.dim() == 4
        and grad.dtype == torch.float32
        and grad.device.type == "cpu"
        and groups == 1
        and not transposed
        and all(d == 1 for d in dilation)
        and weight[0].numel() <= 2 * weight.shape[0]
        and grad.numel() > 0
        and grad.is_contiguous()
        and x.is_contiguous()
        and torch._C._get_mkldnn_enabled()
    )


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if _of_an_image(grad, x, weight, geometry):
        stride, padding, *_ = geometry
        patches = _aten._slow_conv2d_backward.output_mask
        return patches(grad, x, weight, weight.shape[2:], stride, padding, [True, False, False])[0]
    return _aten.convolution_backward.default(grad, x, weight, None, *geometry, [True, False, False])[0]


def _convolution_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias, None where the mask has False."""
    if mask[0] and _of_an_image(grad, x, weight, geometry):
        others = _convolution_gradients(grad, x, weight, geometry, [False, *mask[1:]])
        return _input_gradient(grad, x, weight, geometry), *others[1:]
    if not any(mask):
        return None, None, None
    bias_sizes = [grad.shape[1]] if mask[2] else None
    found = _aten.convolution_backward.default(grad, x, weight, bias_sizes, *geometry, mask)
    return tuple(g if wanted else None for g, wanted in zip(found, mask, strict=True))


def convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, *rest: Any
) -> tuple[Tensor | None, ...]:
    """As `torch.ops.aten.convolution_backward`, for graphs."""
    *geometry, mask = rest
    return _convolution_gradients(grad, x, weight, tuple(geometry), mask)


class Convolution(torch.autograd.Function):
    """Any convolution of x with weight, transposed or not."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        """Runs torch's convolution."""
        return _convolve(x, weight, bias, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps both operands."""
        x, weight, _, ctx.geometry = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias, those that are asked for."""
        if grad is None:
            return None, None, None, None
        x, weight = ctx.saved_tensors
        asked = [_asked(ctx, k) for k in range(3)]
        if not torch.is_grad_enabled():
            return *_convolution_gradients(grad, x, weight, ctx.geometry, asked), None
        dx = apply(ConvolutionInputGradient, grad, weight, x.detach(), ctx.geometry) if asked[0] else None
        dweight = apply(ConvolutionWeightGradient, grad, x, weight.detach(), ctx.geometry) if asked[1] else None
        dbias = grad.sum([d for d in range(grad.dim()) if d != 1]) if asked[2] else None
        return dx, dweight, dbias, None


class ConvolutionInputGradient(torch.autograd.Function):
    """The gradient of a convolution's input; `like` gives that input's shape and layout alone."""

    @staticmethod
    def forward(grad: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        """Runs torch's input gradient."""
        return _input_gradient(grad, like, weight, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the operands."""
        grad, weight, like, ctx.geometry = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, weight, like)

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> tuple[Tensor | None, ...]:
        """A convolution of the tangent v, and a weight gradient with v in the input's place."""
        if v is None:
            return None, None, None, None
        grad, weight, _ = ctx.saved_tensors
        dgrad = dweight = None
        if not torch.is_grad_enabled():
            if _asked(ctx, 0):
                dgrad = _convolve(v, weight, None, ctx.geometry)
            if _asked(ctx, 1):
                dweight = _convolution_gradients(grad, v, weight, ctx.geometry, [False, True, False])[1]
            return dgrad, dweight, None, None
        if _asked(ctx, 0):
            dgrad = apply(Convolution, v, weight, None, ctx.geometry)
        if _asked(ctx, 1):
            dweight = apply(ConvolutionWeightGradient, grad, v, weight.detach(), ctx.geometry)
        return dgrad, dweight, None, None


class ConvolutionWeightGradient(torch.autograd.Function):
    """The gradient of a convolution's weight; `like` gives that weight's shape and layout alone."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        """Runs torch's weight gradient."""
        return _aten.convolution_backward.default(grad, x, like, None, *geometry, [False, True, False])[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the operands."""
        grad, x, like, ctx.geometry = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, like)

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> tuple[Tensor | None, ...]:
        """A convolution with the tangent v as weight, and an input gradient with v as weight."""
        if v is None:
            return None, None, None, None
        grad, x, _ = ctx.saved_tensors
        dgrad = apply(Convolution, x, v, None, ctx.geometry) if _asked(ctx, 0) else None
        dx = apply(ConvolutionInputGradient, grad, v, x.detach(), ctx.geometry) if _asked(ctx, 1) else None
        return dgrad, dx, None, None


#: Multiplications of a matrix product from which on oneDNN is faster than MKL.
WORTH_A_CALL = 1 << 22


def onednn_can(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether x @ weight.T + bias is one that oneDNN computes, large enough to be worth the call.

    oneDNN's operator reads a bias as the dense vector that it should be, whatever it is.

    torch's CPU products run in MKL, at half of oneDNN's speed on processors that are not Intel's.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.dim() == 2
        and x.shape[-1] == weight.shape[1]
        and x.numel() * weight.shape[0] >= WORTH_A_CALL
        and (bias is None or (bias.shape == weight.shape[:1] and bias.dtype == x.dtype and bias.is_contiguous()))
        and torch._C._get_mkldnn_enabled()
        and ONEDNN is not None
    )


ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b.T + bias in oneDNN."""
    assert ONEDNN is not None
    return _without_autocast(ONEDNN, a, b, bias, "none", [], "")


class MatrixProduct(torch.autograd.Function):
    """a @ b.T + bias, or a @ b, of matrices; its derivatives are products of the same kind."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        """Runs oneDNN's product."""
        return _product(a, b if transposed else b.t(), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the operands that a gradient needs."""
        a, b, _, ctx.transposed = inputs
        ctx.set_materialize_grads(False)
        need_a, need_b, *_ = ctx.needs_input_grad  # as torch's: what is not kept may be changed in place
        ctx.save_for_backward(a if need_b else None, b if need_a else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of a, b and bias, those that are asked for."""
        if grad is None:
            return None, None, None, None
        a, b = ctx.saved_tensors
        da = db = None
        left, right = (grad, a) if ctx.transposed else (a, grad)
        if torch.is_grad_enabled():
            if _asked(ctx, 0):
                da = apply(MatrixProduct, grad, b, None, not ctx.transposed)
            if _asked(ctx, 1):
                db = apply(MatrixProduct, left.t(), right, None, False)
        else:
            if _asked(ctx, 0):
                da = _product(grad, b.t() if ctx.transposed else b)
            if _asked(ctx, 1):
                db = _product(left.t(), right.t())
        return da, db, grad.sum(0) if _asked(ctx, 2) else None, None
