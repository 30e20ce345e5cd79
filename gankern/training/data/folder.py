"""A folder of images, of any sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from gankern.diagnostics.inputs import SUFFIXES, rgb
from gankern.training.data.source import DataError, Source


def open_folder(path: str) -> Source:
    """All images below PATH, or PATH@SIZE: cropped to a square about their centres, resized, 8-bit RGB.

    16-bit grey levels are divided by 257, transparent pixels are laid on white (`gankern.diagnostics.inputs.rgb`).

    Raises:
        DataError: there is no such folder, no image in it, or one that cannot be read.
    """
    head, at, tail = path.rpartition("@")
    path, size = (head, int(tail)) if at and tail.isdecimal() else (path, 32)
    folder = Path(path)
    if size < 1:
        raise DataError(f"folder: SIZE must be at least 1, got {size}")
    if not folder.is_dir():
        raise DataError(f"folder: no folder {path}")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"folder: no images in {path} ({', '.join(sorted(SUFFIXES))})")
    rows = np.empty((len(files), 3, size, size), np.uint8)
    for row, file in zip(rows, files, strict=True):
        row[:] = np.moveaxis(_image(file, size), -1, 0)
    return Source(f"folder:{folder.name}", (3, size, size), rows=torch.from_numpy(rows))


def _image(file: Path, size: int) -> np.ndarray:
    try:
        with Image.open(file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(ImageOps.fit(rgb(image), (size, size), Image.Resampling.BOX))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be read as an image: {' '.join(str(error).split())}") from None
