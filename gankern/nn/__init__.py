"""Drop-in layers."""

from gankern.nn.minibatch import MinibatchDiscrimination

__all__ = ["MinibatchDiscrimination"]
