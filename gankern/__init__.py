"""gankern: a low-level, kernel-optimised GAN toolkit for PyTorch."""

from gankern import diagnostics, nn, ops
from gankern._info import info
from gankern._version import __version__
from gankern.backend import backend

__all__ = ["__version__", "backend", "diagnostics", "info", "nn", "ops"]
