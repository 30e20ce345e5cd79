"""Where data files are looked for, and how they are read."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np

from gankern.training.data.source import DataError


def place(path: str, name: str) -> Path:
    """The folder of a data set: the user's, else GANKERN_DATA/<name>, else data/<name> below the current folder."""
    return Path(path) if path else Path(os.environ.get("GANKERN_DATA", "") or "data") / name


def content(file: Path) -> np.ndarray:
    """A file's bytes, decompressed if its name ends in .gz.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    return np.frombuffer(data, np.uint8)
