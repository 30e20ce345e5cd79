"""Functions on modules: what `torch.nn.utils` has for weights, faster."""

from gankern.nn.utils.spectral_group import SpectralNormGroup, group_spectral_norm
from gankern.nn.utils.spectral_norm import remove_spectral_norm, spectral_norm

__all__ = ["SpectralNormGroup", "group_spectral_norm", "remove_spectral_norm", "spectral_norm"]
