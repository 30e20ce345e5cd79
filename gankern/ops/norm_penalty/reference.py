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


def _slopes(norm: Tensor, kind: int, target: float) -> tuple[Tensor, Tensor, Tensor]:
    """h'(n) and n as divisor (h' = 0 and 1 where nothing may be divided), and h'(n)/n differentiated, over n."""
    if kind == ZERO_CENTERED:
        return torch.full_like(norm, 2), torch.ones_like(norm), torch.zeros_like(norm)
    still = norm == 0
    if kind == ONE_SIDED:
        still = still | (norm < target)
    divisor = torch.where(still, 1, norm)
    return torch.where(still, 0, 2 * (norm - target)), divisor, torch.where(still, 0, 2 * target / norm / norm / norm)


def norm_penalty_backward(grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float) -> Tensor:
    """The gradient of g, (N, D), for the gradient of the value, (N,)."""
    slope, divisor, _ = _slopes(norm, kind, target)
    return (torch.where(slope == 0, 0, 2 * (grad * slope / (2 * divisor)))[:, None] * _upcast(g)).to(g.dtype)


def norm_penalty_double_backward(
    v: Tensor, grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float
) -> tuple[Tensor, Tensor]:
    """Gradients of <V, dg> with respect to grad, (N,), and g, (N, D)."""
    x, cotangent = _upcast(g), _upcast(v)
    slope, divisor, bend = _slopes(norm, kind, target)
    along = (cotangent * x).sum(1)
    dgrad = torch.where(slope == 0, 0, slope / divisor * along)
    dg = torch.where(slope == 0, 0, 2 * (grad * slope / (2 * divisor)))[:, None] * cotangent
    if kind != ZERO_CENTERED:
        # grad last: a subnormal one is then rounded once, not amplified.
        flat = (slope == 0) & (bend == 0)
        curve = torch.where(norm == 0, 0, bend * along)
        dg = dg + curve[:, None] * x * torch.where(flat, 1, grad)[:, None]
    return dgrad, dg.to(g.dtype)
