"""DCGAN and WGAN at 32 x 32, as in Bandhey, Lopez and Rabinowitz, "Analyzing Stability and Properties of GANs".

Their appendix B gives tables of layers (1, 2, 4 and 5), after Radford et al. 2016 (arXiv:1511.06434). Where they are
incomplete or contradict themselves:

- The generator of table 2, printed with stride 2 and padding 1 throughout, makes 16 x 16 images. Its first
  transposed convolution has stride 1 and no padding here, which turns the 1 x 1 latent into a 4 x 4 map.
- The weights are N(0, 0.02) and the biases 0; batch normalisation starts as torch's, at scale 1 and shift 0.
- The table of WGAN's discriminator has lost some of its columns; its text says: as DCGAN's, without the sigmoid.
- The sigmoid belongs to the loss here: critics return logits.

Other sizes keep the number of features at the 2 x 2 map and halve or double the number of stages.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gankern.models.sizes import doublings, normal_weights

SLOPE = 0.2
STD = 0.02


class DCGANGenerator(nn.Module):
    """Transposed convolutions from a latent vector to an image.

    Args:
        shape: (channels, size, size) of the image; size 8 to 128, a power of two.
        latent: length of a latent vector.
        width: features before the last layer, 256 in the tables; each stage before has twice as many.

    Shape:
        input (N, latent), output (N, *shape) in [-1, 1].
    """

    def __init__(self, shape: Sequence[int], latent: int = 100, width: int = 256) -> None:
        super().__init__()
        stages = doublings("DCGANGenerator", shape)
        layers: list[nn.Module] = []
        inside = latent
        for stage in range(stages):
            features = width << (stages - 1 - stage)
            stride, padding = (1, 0) if stage == 0 else (2, 1)
            layers += [nn.ConvTranspose2d(inside, features, 4, stride, padding), nn.BatchNorm2d(features), nn.ReLU()]
            inside = features
        layers += [nn.ConvTranspose2d(inside, shape[0], 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        normal_weights(self, STD)

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors."""
        return self.layers(z[:, :, None, None])


class DCGANCritic(nn.Module):
    """Strided convolutions from an image to one logit.

    Args:
        shape: (channels, size, size) of the image.
        width: features at the 2 x 2 map, 256 in the tables; each stage before has half as many.
        norm: batch normalisation after each hidden convolution, as in the tables.

    Shape:
        input (N, *shape), output (N,).
    """

    def __init__(self, shape: Sequence[int], width: int = 256, norm: bool = True) -> None:
        super().__init__()
        stages = doublings("DCGANCritic", shape) + 1
        layers: list[nn.Module] = []
        inside = shape[0]
        for stage in range(stages):
            features = max(1, width >> (stages - 1 - stage))
            layers.append(nn.Conv2d(inside, features, 4, 2, 1))
            layers += [nn.BatchNorm2d(features)] if norm else []
            layers.append(nn.LeakyReLU(SLOPE))
            inside = features
        self.layers = nn.Sequential(*layers, nn.Conv2d(inside, 1, 4, 2, 1))
        normal_weights(self, STD)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        return self.layers(x).flatten()
