"""The ops as functions; `gankern.nn` has the layers built on them."""

from gankern.ops.minibatch_l1 import minibatch_l1

__all__ = ["minibatch_l1"]
