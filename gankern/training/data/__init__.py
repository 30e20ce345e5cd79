"""Where training samples come from. A name, or `kind:PATH`; nothing is ever downloaded."""

from gankern.training.data.catalogue import NAMES, absolute, open_source
from gankern.training.data.source import Batches, DataError, Modes, Source

__all__ = ["NAMES", "Batches", "DataError", "Modes", "Source", "absolute", "open_source"]
