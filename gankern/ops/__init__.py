"""The ops as functions; `gankern.nn` has the layers built on them."""

from gankern.ops.closest_pairs import ClosestPairs, closest_pairs
from gankern.ops.interpolate import interpolate
from gankern.ops.minibatch_l1 import minibatch_l1
from gankern.ops.nearest import nearest
from gankern.ops.norm_penalty import norm_penalty
from gankern.ops.spectral_norm import spectral_norm, spectral_norm_group

__all__ = [
    "ClosestPairs",
    "closest_pairs",
    "interpolate",
    "minibatch_l1",
    "nearest",
    "norm_penalty",
    "spectral_norm",
    "spectral_norm_group",
]
