"""gankern: a low-level, kernel-optimised GAN toolkit for PyTorch."""

from gankern import diagnostics, nn, ops
from gankern._info import info
from gankern._version import __version__
from gankern.backend import backend
from gankern.penalty import consistency_penalty, gradient_penalty

__all__ = [
    "__version__",
    "backend",
    "consistency_penalty",
    "diagnostics",
    "gradient_penalty",
    "info",
    "nn",
    "ops",
]
