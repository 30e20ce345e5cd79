"""gankern: a low-level, kernel-optimised GAN toolkit for PyTorch."""

from gankern import _interrupt as _interrupt  # first

# isort: split

import importlib
from typing import TYPE_CHECKING, Any

from gankern import diagnostics, nn, ops
from gankern._info import info
from gankern._version import __version__
from gankern.backend import backend
from gankern.penalty import consistency_penalty, gradient_penalty

if TYPE_CHECKING:
    from gankern import losses, models, training

__all__ = [
    "__version__",
    "backend",
    "consistency_penalty",
    "diagnostics",
    "gradient_penalty",
    "info",
    "losses",
    "models",
    "nn",
    "ops",
    "training",
]

#: Imported when they are asked for.
_LATER = ("losses", "models", "training")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"gankern.{name}")
    raise AttributeError(f"module 'gankern' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
