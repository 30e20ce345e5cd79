"""torch.nn's layers on `gankern.nn.functional`: same constructor arguments, same state_dict, same numbers.

They cost less where gradients are differentiated again, as in a gradient penalty, and nothing otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gankern.nn._mode import zero_aware


class _ZeroAware:
    """Runs torch's forward with the functions of `gankern.nn.functional`."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's."""
        forward = super().forward  # type: ignore[misc]
        if torch.compiler.is_compiling():
            return forward(*args, **kwargs)
        with zero_aware():
            return forward(*args, **kwargs)


class Linear(_ZeroAware, nn.Linear):
    """As `torch.nn.Linear`."""


class Conv1d(_ZeroAware, nn.Conv1d):
    """As `torch.nn.Conv1d`."""


class Conv2d(_ZeroAware, nn.Conv2d):
    """As `torch.nn.Conv2d`."""


class Conv3d(_ZeroAware, nn.Conv3d):
    """As `torch.nn.Conv3d`."""


class ConvTranspose1d(_ZeroAware, nn.ConvTranspose1d):
    """As `torch.nn.ConvTranspose1d`."""


class ConvTranspose2d(_ZeroAware, nn.ConvTranspose2d):
    """As `torch.nn.ConvTranspose2d`."""


class ConvTranspose3d(_ZeroAware, nn.ConvTranspose3d):
    """As `torch.nn.ConvTranspose3d`."""


class ReLU(_ZeroAware, nn.ReLU):
    """As `torch.nn.ReLU`."""


class LeakyReLU(_ZeroAware, nn.LeakyReLU):
    """As `torch.nn.LeakyReLU`."""


class PReLU(_ZeroAware, nn.PReLU):
    """As `torch.nn.PReLU`."""


class ReLU6(_ZeroAware, nn.ReLU6):
    """As `torch.nn.ReLU6`."""


class Hardtanh(_ZeroAware, nn.Hardtanh):
    """As `torch.nn.Hardtanh`."""


class AvgPool2d(_ZeroAware, nn.AvgPool2d):
    """As `torch.nn.AvgPool2d`."""


class AvgPool3d(_ZeroAware, nn.AvgPool3d):
    """As `torch.nn.AvgPool3d`."""


class AdaptiveAvgPool2d(_ZeroAware, nn.AdaptiveAvgPool2d):
    """As `torch.nn.AdaptiveAvgPool2d`."""


class MaxPool2d(_ZeroAware, nn.MaxPool2d):
    """As `torch.nn.MaxPool2d`."""


class MaxPool3d(_ZeroAware, nn.MaxPool3d):
    """As `torch.nn.MaxPool3d`."""


#: Our class for each of torch's.
OURS: dict[type[nn.Module], type[nn.Module]] = {
    ours.__mro__[2]: ours
    for ours in (
        *(Linear, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d),
        *(ReLU, LeakyReLU, PReLU, ReLU6, Hardtanh),
        *(AvgPool2d, AvgPool3d, AdaptiveAvgPool2d, MaxPool2d, MaxPool3d),
    )
}
