"""Spectral normalisation in plain torch (Miyato et al. 2018), with its derivatives by hand.

A weight of any shape is seen as a matrix W: rows along its axis `dim`, all other axes flattened to columns. One
power iteration, in the order of `torch.nn.utils.parametrizations.spectral_norm` and with its clamps:

    u = W v / max(|W v|, eps),    v = W^T u / max(|W^T u|, eps),    sigma = u . (W v)

The results are N = W / sigma and sigma; u and v are constants of every derivative. For gradients G of N and s of
sigma, with c = <G, N>:

    dW = (G - c u v^T) / sigma + s u v^T

and for a cotangent V of dW, with a = u . (V v):

    dG = (V - a N) / sigma,    ds = a,    dW = ((2 a c - <V, G>) u v^T - a G) / sigma^2

Vectors travel in one tensor, u_0, v_0, u_1, v_1, ... Half types are computed in float32, and vectors and sigma stay in
float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def _upcast(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _matrix(x: Tensor, dim: int) -> Tensor:
    return _upcast(x).movedim(dim, 0).unsqueeze(-1).flatten(1)


def _tensor(matrix: Tensor, like: Tensor, dim: int) -> Tensor:
    """The matrix in the shape, order and dtype of the weight `like`."""
    shape = [like.shape[dim], *like.shape[:dim], *like.shape[dim + 1 :]]
    return matrix.view(shape).movedim(0, dim).to(like.dtype).reshape(-1).view(like.shape)


def sizes(weights: list[Tensor], dims: list[int]) -> list[int]:
    """Lengths of u_0, v_0, u_1, v_1, ..."""
    found = []
    for weight, dim in zip(weights, dims, strict=True):
        columns = 1
        for k, n in enumerate(weight.shape):
            columns = columns if k == dim else columns * n
        found += [weight.shape[dim], columns]
    return found


def pairs(vectors: Tensor, weights: list[Tensor], dims: list[int]) -> list[tuple[Tensor, Tensor]]:
    """(u, v) of each weight, views of `vectors`."""
    parts = vectors.split(sizes(weights, dims))
    return list(zip(parts[::2], parts[1::2], strict=True))


def _iterate(matrix: Tensor, u: Tensor, v: Tensor, n_power_iterations: int, eps: float) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        u, v = u.to(matrix.dtype), v.to(matrix.dtype)
        for _ in range(n_power_iterations):
            u = functional.normalize(matrix.mv(v), dim=0, eps=eps)
            v = functional.normalize(matrix.mH.mv(u), dim=0, eps=eps)
    return u, v


def spectral_norm_power(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n_power_iterations: int, eps: float
) -> tuple[Tensor, Tensor]:
    """The vectors after the iterations, and each sigma, (L,); the latter differentiable by torch to any order."""
    vectors, sigma = [], []
    for weight, old_u, old_v, dim in zip(weights, u, v, dims, strict=True):
        matrix = _matrix(weight, dim)
        new_u, new_v = _iterate(matrix, old_u, old_v, n_power_iterations, eps)
        vectors += [new_u, new_v]
        sigma.append(torch.dot(new_u, matrix.mv(new_v)))
    return torch.cat(vectors), torch.stack(sigma)


def spectral_norm(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n_power_iterations: int, eps: float
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Each W / sigma, the vectors, and each sigma, (L,); differentiable by torch to any order."""
    vectors, sigma = spectral_norm_power(weights, u, v, dims, n_power_iterations, eps)
    normalized = [
        _tensor(_matrix(weight, dim) / s, weight, dim) for weight, s, dim in zip(weights, sigma, dims, strict=True)
    ]
    return normalized, vectors, sigma


def spectral_norm_backward(
    grads: list[Tensor], grad_sigma: Tensor, weights: list[Tensor], vectors: Tensor, sigma: Tensor, dims: list[int]
) -> list[Tensor]:
    """Each dW for the gradients of the normalised weights and of sigma."""
    result = []
    for k, (u, v) in enumerate(pairs(vectors, weights, dims)):
        g, w = _matrix(grads[k], dims[k]), _matrix(weights[k], dims[k])
        c = (g * (w / sigma[k])).sum()
        result.append(_tensor(g / sigma[k] + (grad_sigma[k] - c / sigma[k]) * u.outer(v), weights[k], dims[k]))
    return result


def spectral_norm_double_backward(
    cotangents: list[Tensor],
    grads: list[Tensor],
    grad_sigma: Tensor,
    weights: list[Tensor],
    vectors: Tensor,
    sigma: Tensor,
    dims: list[int],
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Gradients of sum_l <V_l, dW_l> with respect to the gradients of the weights and of sigma, and the weights."""
    dgrads, dgrad_sigma, dweights = [], [], []
    for k, (u, v) in enumerate(pairs(vectors, weights, dims)):
        t, g, w = (_matrix(x[k], dims[k]) for x in (cotangents, grads, weights))
        s = sigma[k]
        n = w / s
        a, c, p = u.dot(t.mv(v)), (g * n).sum(), (t * g).sum()
        dgrads.append(_tensor((t - a * n) / s, weights[k], dims[k]))
        dgrad_sigma.append(a)
        dweights.append(_tensor(((2 * a * c - p) / s * u.outer(v) - a / s * g) / s, weights[k], dims[k]))
    return dgrads, torch.stack(dgrad_sigma), dweights
