"""Functions on modules and on whole models."""

from gankern.nn._patch import PatchReport, patch
from gankern.nn.utils.spectral_group import SpectralNormGroup, group_spectral_norm
from gankern.nn.utils.spectral_norm import remove_spectral_norm, spectral_norm

__all__ = [
    "PatchReport",
    "SpectralNormGroup",
    "group_spectral_norm",
    "patch",
    "remove_spectral_norm",
    "spectral_norm",
]
