"""Which image sizes the convolutional networks take, and their initialisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


class ShapeError(ValueError):
    """A network that cannot be built for samples of this shape."""


def doublings(network: str, shape: Sequence[int]) -> int:
    """How often a 4 x 4 map is doubled to reach the image: 3 for (channels, 32, 32).

    Raises:
        ShapeError: shape is not (channels, size, size) with size 8, 16, 32, 64 or 128.
    """
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] not in (8, 16, 32, 64, 128):
        raise ShapeError(
            f"{network} makes square images of 8, 16, 32, 64 or 128 pixels; samples here have shape "
            f"{' x '.join(map(str, shape))}"
        )
    return shape[1].bit_length() - 3


def normal_weights(module: nn.Module, std: float) -> None:
    """Draws all weights of layers with weight matrices from N(0, std) and zeroes their biases."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
