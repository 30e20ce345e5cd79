"""The ops as functions; `gankern.nn` has the layers built on them."""

from gankern.ops.closest_pairs import ClosestPairs, closest_pairs
from gankern.ops.minibatch_l1 import minibatch_l1
from gankern.ops.nearest import nearest
from gankern.ops.spectral_norm import spectral_norm, spectral_norm_group

__all__ = ["ClosestPairs", "closest_pairs", "minibatch_l1", "nearest", "spectral_norm", "spectral_norm_group"]
