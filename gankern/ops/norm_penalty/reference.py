"""Per-sample norm and penalty in plain torch, with the derivatives by hand.

With n = |g_i|, p the cotangent of the value, V that of dg, and h one of

    0 two-sided      (n - t)^2
    1 one-sided      max(0, n - t)^2
    2 zero-centered  n^2

the gradient is dg = c g with c = p h'(n) / n, and the gradients of <V, dg> are, with s = <V, g>,

    dp = h'(n)/n s,    dg = c V + (dc/dn) / n s g

Nothing is divided by n where n = 0: the gradient of a norm is 0 there. Half types are computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

TWO_SIDED, ONE_SIDED, ZERO_CENTERED = range(3)


def _upcast(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def norm_penalty(g: Tensor, kind: int, target: float) -> tuple[Tensor, Tensor]:
    """Value and norm, (N,) each, of g, (N, D); the value is differentiable by torch to any order."""
    square = _upcast(g).square().sum(1)
    zero = square.detach() == 0
    norm = torch.where(zero, 0, torch.where(zero, 1, square).sqrt())
    if kind == ZERO_CENTERED:
        return square, norm.detach()
    excess = norm - target
    return (excess.clamp(min=0) if kind == ONE_SIDED else excess).square(), norm.detach()


def _first(grad: Tensor, norm: Tensor, kind: int, target: float) -> tuple[Tensor, Tensor, Tensor]:
    """c / 2, which rows are flat (dragging nothing along), and n where something is divided by it, else 1."""
    if kind == ZERO_CENTERED:
        return grad, torch.zeros_like(norm, dtype=torch.bool), torch.ones_like(norm)
    flat = norm == 0
    if kind == ONE_SIDED:
        flat = flat | (norm < target)
    divisor = torch.where(norm == 0, 1, norm)
    return torch.where(flat, 0, grad * (2 * (norm - target)) / (2 * divisor)), flat, divisor


def norm_penalty_backward(grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float) -> Tensor:
    """The gradient of g, (N, D), for the gradient of the value, (N,)."""
    half, _, _ = _first(grad, norm, kind, target)
    return ((2 * half)[:, None] * _upcast(g)).to(g.dtype)


def norm_penalty_double_backward(
    v: Tensor, grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float
) -> tuple[Tensor, Tensor]:
    """Gradients of <V, dg> with respect to grad, (N,), and g, (N, D)."""
    x, cotangent = _upcast(g), _upcast(v)
    half, flat, divisor = _first(grad, norm, kind, target)
    # In the order of autograd's own steps, whose roundings of subnormal numbers the oracle has too.
    s = (cotangent * (2 * x)).sum(1)
    dg = 2 * (half[:, None] * cotangent)
    if kind == ZERO_CENTERED:
        return s, dg.to(g.dtype)
    slope = torch.where(flat, 0, s / (2 * divisor))
    dnorm = torch.where(flat, 0, 2 * (slope * grad)) - 2 * (s * (half / (2 * divisor)))
    curve = torch.where(norm == 0, 0, 2 * (dnorm / (2 * divisor)))
    return slope * (2 * (norm - target)), (dg + torch.where((norm == 0)[:, None], 0, curve[:, None] * x)).to(g.dtype)
