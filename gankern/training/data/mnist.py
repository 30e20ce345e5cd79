"""MNIST from its published idx file."""

from __future__ import annotations

from pathlib import Path

import torch

from gankern.training.data.files import content, place
from gankern.training.data.source import DataError, Source

FOLDER = "mnist"
_FILE = "train-images-idx3-ubyte"
_MAGIC = 0x0803


def open_folder(path: str) -> Source:
    """60,000 images, (1, 32, 32): 28 x 28 with a border of two.

    Raises:
        DataError: the file is not there, or is no idx file of images.
    """
    folder = place(path, FOLDER)
    found = [file for name in (_FILE, _FILE + ".gz") if (file := folder / name).is_file()]
    if not found:
        raise DataError(f"mnist: put {_FILE} (or {_FILE}.gz) into {folder}, or name its folder: mnist:DIR")
    return Source("mnist", (1, 32, 32), rows=_images(found[0]))


def _images(file: Path) -> torch.Tensor:
    data = content(file)
    header = [int.from_bytes(data[k : k + 4].tobytes(), "big") for k in (0, 4, 8, 12)]
    if len(data) < 16 or header[0] != _MAGIC:
        raise DataError(f"{file}: no idx file of images")
    count, height, width = header[1:]
    if (height, width) != (28, 28) or len(data) != 16 + count * height * width:
        raise DataError(
            f"{file}: {count} images of {height} x {width} in {len(data)} bytes: truncated, or no MNIST file"
        )
    images = torch.from_numpy(data[16:].copy()).view(count, 1, 28, 28)
    return torch.nn.functional.pad(images, (2, 2, 2, 2))
