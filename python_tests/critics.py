"""Critics of every sort, small, for the tests of penalties."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import gankern as gk


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(48, 16), nn.LeakyReLU(0.2), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 1)
    )


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(6, 8, 3, padding="same", padding_mode="reflect"),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 1),
    )


class Residual(nn.Module):
    """Grouped convolutions, GroupNorm, a smooth activation, a skip connection, functional calls."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(2, 8)
        self.leave = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        y = F.silu(self.norm(self.inner(x)))
        x = F.leaky_relu(self.leave(x + y), 0.1)
        return self.head(F.max_pool2d(x, 2).mean((2, 3)))


def discriminating() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(48, 10), nn.LeakyReLU(0.2), gk.nn.MinibatchDiscrimination(10, 4, 3), nn.Linear(14, 1)
    )


def normalised() -> nn.Module:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 6, 3, padding=1)),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        spectral_norm(nn.Linear(96, 1)),
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), nn.PReLU(4), nn.Flatten(), nn.Linear(256, 1)
    )


def batch_normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(96, 1)
    )


ALL = {f.__name__.lower(): f for f in (mlp, conv, Residual, discriminating, normalised, transposed, batch_normalised)}


def make(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A critic for (N, 3, 4, 4), in eval mode where a forward pass in training mode would change its buffers."""
    torch.manual_seed(seed)
    critic = ALL[name]().to(dtype)
    return critic.eval() if name == "normalised" else critic


def batches(n: int = 6, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real, fake = torch.randn(2, n, 3, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    return real, fake
