"""Interpolation per sample in plain torch, with the derivatives by hand.

    x = a r + (1 - a) f
    dr = a G,   df = (1 - a) G,   da_i = <G_i, r_i> - <G_i, f_i>

and for cotangents Vr, Vf, va of those three

    dG = a Vr + (1 - a) Vf + va r - va f,   dr = va G,   df = -va G,   da_i = <G_i, Vr_i> - <G_i, Vf_i>

Products stand one by one, as autograd has them: where numbers are subnormal, a factored form rounds differently. Half
types are computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _upcast(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """x, (N, D), of real and fake, (N, D), and alpha, (N,); differentiable by torch to any order."""
    a = _upcast(alpha)[:, None]
    return (a * _upcast(real) + (1 - a) * _upcast(fake)).to(real.dtype)


def interpolate_backward(grad: Tensor, real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of real, fake and alpha."""
    a, g = alpha[:, None], _upcast(grad)
    along = (g * _upcast(real) - g * _upcast(fake)).sum(1)
    return (a * g).to(real.dtype), ((1 - a) * g).to(real.dtype), along


def interpolate_double_backward(
    vr: Tensor, vf: Tensor, va: Tensor, grad: Tensor, real: Tensor, fake: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of <(Vr, Vf, va), (dr, df, da)> with respect to grad, real, fake and alpha."""
    a, w, g = alpha[:, None], va[:, None], _upcast(grad)
    cr, cf = _upcast(vr), _upcast(vf)
    dgrad = a * cr + (1 - a) * cf + w * _upcast(real) - w * _upcast(fake)
    dreal = (w * g).to(real.dtype)
    return dgrad.to(real.dtype), dreal, -dreal, (g * cr - g * cf).sum(1)
