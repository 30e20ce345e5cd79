"""Fully connected networks for samples that are vectors.

Zubkov and Filatov, "Research on the stability of generative adversarial network", train such networks on a mixture of
three normal distributions. Their figure 3, with the layers, is lost: two hidden layers of 64 are taken here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn

import gankern.nn as gnn
from gankern.models.sizes import ShapeError


def _features(network: str, shape: Sequence[int]) -> int:
    if len(shape) != 1:
        raise ShapeError(f"{network} takes vectors; samples here have shape {' x '.join(map(str, shape))}")
    return shape[0]


def _hidden(sizes: Sequence[int], activation: Callable[[], nn.Module]) -> list[nn.Module]:
    return [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), activation())]


class MLPGenerator(nn.Module):
    """Vectors from latent vectors.

    Args:
        shape: (features,).
        latent: length of a latent vector.
        hidden: sizes of the hidden layers.

    Shape:
        input (N, latent), output (N, features).
    """

    def __init__(self, shape: Sequence[int], latent: int = 8, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        features = _features("MLPGenerator", shape)
        self.layers = nn.Sequential(*_hidden([latent, *hidden], nn.ReLU), nn.Linear(hidden[-1], features))

    def forward(self, z: Tensor) -> Tensor:
        """Samples of latent vectors."""
        return self.layers(z)


class MLPCritic(nn.Module):
    """A logit for each vector.

    Args:
        shape: (features,).
        hidden: sizes of the hidden layers.
        kernels: features of minibatch discrimination (Salimans et al. 2016) before the last layer; 0 for none.
        kernel_dim: their dimension.
        slope: of the leaky ReLUs; 0 for plain ones.

    Shape:
        input (N, features), output (N,).
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (64, 64),
        kernels: int = 0,
        kernel_dim: int = 5,
        slope: float = 0.2,
    ) -> None:
        super().__init__()
        layers = _hidden([_features("MLPCritic", shape), *hidden], lambda: nn.LeakyReLU(slope))
        if kernels:
            layers.append(gnn.MinibatchDiscrimination(hidden[-1], kernels, kernel_dim, init="salimans"))
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1] + kernels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of samples."""
        return self.layers(x).flatten()
