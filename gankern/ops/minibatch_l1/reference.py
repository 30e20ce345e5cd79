"""Minibatch discrimination in plain torch (Salimans et al. 2016, section 3.2), with its derivatives by hand.

With K_ijb = exp(-sum_c |M_ibc - M_jbc|) and s_ijbc = sgn(M_ibc - M_jbc):

    o_ib   = sum_{j != i} K_ijb                                   (+ 1 with include_self)
    dM_ibc = -sum_j (G_ib + G_jb) K_ijb s_ijbc
    dG_ib  = -sum_j K_ijb q_ijb,   q_ijb = sum_c (V_ibc - V_jbc) s_ijbc
    dM_ibc =  sum_j (G_ib + G_jb) K_ijb q_ijb s_ijbc              (for a cotangent V of dM)

The self term is exactly 1 and never summed: it carries no gradient and no NaN of its own. sgn(0) = 0, as torch's.
Everything broadcasts to (N, N, B, C): this is the mathematics, not a way to run it at size. Half types are
computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _upcast(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _others(x: Tensor) -> Tensor:
    """True where i != j, (N, N, 1)."""
    return ~torch.eye(x.shape[0], dtype=torch.bool, device=x.device)[:, :, None]


def _differences(x: Tensor) -> Tensor:
    """x_i - x_j, (N, N, B, C), and 0 for a row with itself, where NaN or Inf would give NaN."""
    return torch.where(_others(x)[..., None], x[:, None] - x[None], 0)


def _kernel(difference: Tensor) -> Tensor:
    """K with a zero diagonal, (N, N, B)."""
    return torch.where(_others(difference), torch.exp(-difference.abs().sum(-1)), 0)


def _weight(grad: Tensor, factor: Tensor) -> Tensor:
    """(G_ib + G_jb) times a factor of the pair, (N, N, B), and 0 for a row with itself."""
    return torch.where(_others(grad), (grad[:, None] + grad[None]) * factor, 0)


def minibatch_l1(m: Tensor, include_self: bool) -> Tensor:
    """o, (N, B), of m, (N, B, C); differentiable by torch to any order."""
    o = _kernel(_differences(_upcast(m))).sum(1)
    return (o + 1 if include_self else o).to(m.dtype)


def minibatch_l1_backward(grad: Tensor, m: Tensor) -> Tensor:
    """dM, (N, B, C), for the gradient of o, (N, B)."""
    difference = _differences(_upcast(m))
    weight = _weight(_upcast(grad), _kernel(difference))
    return -(weight[..., None] * difference.sign()).sum(1).to(m.dtype)


def minibatch_l1_double_backward(v: Tensor, grad: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of <V, dM> with respect to grad, (N, B), and m, (N, B, C)."""
    difference = _differences(_upcast(m))
    sign = difference.sign()
    kq = _kernel(difference) * (_differences(_upcast(v)) * sign).sum(-1)
    weight = _weight(_upcast(grad), kq)
    return -kq.sum(1).to(m.dtype), (weight[..., None] * sign).sum(1).to(m.dtype)
