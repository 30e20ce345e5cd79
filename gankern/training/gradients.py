"""What the gradients of a network look like: their norm, and how many of them vanish.

Bandhey, Lopez and Rabinowitz count the gradients below 0.01 in each layer (their figure 4): in DCGAN's critic the
count grows as training goes on, in WGAN's it does not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALL = 0.01


def norm(module: nn.Module) -> Tensor:
    """The norm of all gradients together, 0-d."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def small(module: nn.Module) -> dict[str, int]:
    """How many gradients have an absolute value below 0.01, for each layer with a weight matrix."""
    return {name: int((g.abs() < SMALL).sum()) for name, g in _weights(module).items()}


def sizes(module: nn.Module) -> dict[str, int]:
    """How many gradients each of these layers has."""
    return {name: p.numel() for name, p in _parameters(module).items()}


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights by the names of their layers."""
    found = {name: p for name, p in module.named_parameters() if p.dim() > 1}
    return {_short(name): p for name, p in found.items()}


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in _parameters(module).items() if p.grad is not None}


def _short(name: str) -> str:
    return name.removesuffix(".original").removesuffix(".weight").removesuffix(".parametrizations")
