"""The ops as functions; `gankern.nn` has the layers built on them."""

from gankern.ops.minibatch_l1 import minibatch_l1
from gankern.ops.spectral_norm import spectral_norm, spectral_norm_group

__all__ = ["minibatch_l1", "spectral_norm", "spectral_norm_group"]
