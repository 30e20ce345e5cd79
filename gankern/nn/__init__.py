"""Drop-in layers."""

from gankern.nn import utils
from gankern.nn.minibatch import MinibatchDiscrimination

__all__ = ["MinibatchDiscrimination", "utils"]
