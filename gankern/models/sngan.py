"""The convolutional networks of SNGAN (Miyato et al. 2018, arXiv:1802.05957, table 3), normalised or not.

Spectral normalisation itself is not in here: `gankern.nn.utils.group_spectral_norm(critic)` adds it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

import gankern.nn as gnn
from gankern.models.sizes import doublings, normal_weights

SLOPE = 0.1
STD = 0.02


class SNGANGenerator(nn.Module):
    """A dense layer to a small map, then transposed convolutions, each with batch normalisation.

    The map is 4 x 4, as in the table, for 32 pixels and more; smaller images keep the table's three convolutions and
    start from 2 x 2 (16 pixels) or 1 x 1 (8 pixels).

    Args:
        shape: (channels, size, size) of the image; size 8 to 128, a power of two.
        latent: length of a latent vector.
        width: features before the last layer, 64 in the table; each stage before has twice as many.

    Shape:
        input (N, latent), output (N, *shape) in [-1, 1].
    """

    def __init__(self, shape: Sequence[int], latent: int = 128, width: int = 64) -> None:
        super().__init__()
        stages = max(3, doublings("SNGANGenerator", shape))
        inside, start = width << stages, shape[1] >> stages
        layers: list[nn.Module] = [nn.Linear(latent, inside * start**2), nn.Unflatten(1, (inside, start, start))]
        for _ in range(stages):
            layers += [
                nn.ConvTranspose2d(inside, inside // 2, 4, 2, 1),
                nn.BatchNorm2d(inside // 2),
                nn.ReLU(),
            ]
            inside //= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(inside, shape[0], 3, 1, 1), nn.Tanh())
        normal_weights(self, STD)

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        return self.layers(z)


class SNGANCritic(nn.Module):
    """Pairs of a 3 x 3 and a strided 4 x 4 convolution down to a 4 x 4 map, one more convolution, a dense layer.

    Args:
        shape: (channels, size, size) of the image.
        width: features at full size, 64 in the table; each halving doubles them.
        kernels: features of minibatch discrimination (Salimans et al. 2016) beside the last map; 0 for none.
        kernel_dim: their dimension.

    Shape:
        input (N, *shape), output (N,).
    """

    def __init__(self, shape: Sequence[int], width: int = 64, kernels: int = 0, kernel_dim: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside, features = shape[0], width
        for _ in range(doublings("SNGANCritic", shape)):
            layers += [nn.Conv2d(inside, features, 3, 1, 1), nn.LeakyReLU(SLOPE)]
            layers += [nn.Conv2d(features, features, 4, 2, 1), nn.LeakyReLU(SLOPE)]
            inside, features = features, 2 * features
        layers += [nn.Conv2d(inside, features, 3, 1, 1), nn.LeakyReLU(SLOPE)]
        layers.append(nn.Flatten())
        if kernels:
            layers.append(gnn.MinibatchDiscrimination(features * 16, kernels, kernel_dim, init="salimans"))
        self.layers = nn.Sequential(*layers, nn.Linear(features * 16 + kernels, 1))
        normal_weights(self, STD)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        return self.layers(x).flatten()
