"""Drop-in layers."""

from gankern.nn import functional, utils
from gankern.nn._mode import zero_aware
from gankern.nn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    AvgPool3d,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Hardtanh,
    LeakyReLU,
    Linear,
    MaxPool2d,
    MaxPool3d,
    PReLU,
    ReLU,
    ReLU6,
)
from gankern.nn.minibatch import MinibatchDiscrimination

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "AvgPool3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Hardtanh",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "MaxPool3d",
    "MinibatchDiscrimination",
    "PReLU",
    "ReLU",
    "ReLU6",
    "functional",
    "utils",
    "zero_aware",
]
