"""Peers of spectral_norm: torch's parametrization, layer by layer, as modules run it.

Whole models, compiled too: `python -m benchmarks.spectral_norm_models`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from gankern.bench import Provider


def _layer(weight: Tensor, u: Tensor, v: Tensor, dim: int, n: int, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `_SpectralNorm.forward` computes, with its own methods; it keeps sigma to itself."""
    layer = _SpectralNorm.__new__(_SpectralNorm)  # its constructor iterates 15 times
    nn.Module.__init__(layer)
    layer.dim, layer.n_power_iterations, layer.eps = dim, n, eps
    layer.register_buffer("_u", u.clone())
    layer.register_buffer("_v", v.clone())
    matrix = layer._reshape_weight_to_matrix(weight)
    layer._power_method(matrix, n)
    new_u, new_v = layer._u.clone(), layer._v.clone()
    sigma = torch.vdot(new_u, torch.mv(matrix, new_v))
    return weight / sigma, new_u, new_v, sigma


def _parametrization(
    weights: Sequence[Tensor], u: Sequence[Tensor], v: Sequence[Tensor], dims: Sequence[int], n: int, eps: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    found = [_layer(*arguments, n, eps) for arguments in zip(weights, u, v, dims, strict=True)]
    normalized, new_u, new_v, sigma = (list(x) for x in zip(*found, strict=True))
    return normalized, new_u, new_v, torch.stack(sigma)


PEERS = (Provider("parametrization", lambda: _parametrization),)
