"""The ops as functions; `gankern.nn` has the layers built on them."""

from gankern.ops.interpolate import interpolate
from gankern.ops.minibatch_l1 import minibatch_l1
from gankern.ops.norm_penalty import norm_penalty

__all__ = ["interpolate", "minibatch_l1", "norm_penalty"]
