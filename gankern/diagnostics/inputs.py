"""Samples from files that anybody may have made: no pickles, and one line that says what is wrong with which."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_DTYPES = ("float16", "float32", "float64", "uint8")


class InputError(Exception):
    """What is wrong, and where."""


def load_samples(path: Path) -> np.ndarray:
    """(N, ...) from an .npz with `arr_0`, an .npy (mapped, not read), or a folder of images of one size.

    Images come as 8-bit RGB, see `rgb`.

    Raises:
        InputError: the path or its contents are no such thing.
    """
    try:
        if path.is_dir():
            samples = _folder(path)
        elif not path.exists():
            raise InputError(f"{path}: no such file or folder")
        elif path.suffix == ".npz":
            samples = _npz(path)
        elif path.suffix == ".npy":
            samples = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            raise InputError(f"{path}: expected an .npz, an .npy or a folder of images")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise InputError(f"{path}: cannot be read: {_short(error)}") from None
    if samples.dtype.name not in _DTYPES:
        raise InputError(f"{path}: expected {', '.join(_DTYPES)}; got an array of {samples.dtype}")
    if samples.ndim < 2 or len(samples) < 2 or not samples[0].size:
        raise InputError(f"{path}: expected an array (N, ...) with N at least 2, got shape {samples.shape}")
    return samples


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "pickle" in text.lower() or "Python objects" in text:
        return "it is no NumPy file, or holds pickled objects, which are never loaded"
    return text


def _npz(path: Path) -> np.ndarray:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError(f"{path}: expected an .npz archive")
    with archive:
        if "arr_0" not in archive:
            raise InputError(f"{path}: no array arr_0 in it; it holds {', '.join(archive.files) or 'nothing'}")
        return archive["arr_0"]


def _folder(path: Path) -> np.ndarray:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"{path}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
    first = _image(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for number, file in enumerate(files):
        image = _image(file)
        if image.shape != first.shape:
            raise InputError(
                f"{file}: {_size(image)}, but {files[0].name} is {_size(first)}: all images must have one size"
            )
        images[number] = image
    return images


def rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: 16-bit grey levels are divided by 257, transparent pixels are laid on white.

    Raises:
        ValueError: its grey levels have 32 bits, so which of them is white is unknown.
    """
    # Of the formats here, PNG and PGM hold at most 16 bits, also where Pillow gives 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"grey levels of 32 bits (mode {image.mode}) have no known white: save it with 8 or 16 bits")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _image(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.asarray(rgb(image))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as an image: {_short(error)}") from None


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def as_images(rows: np.ndarray) -> np.ndarray | None:
    """Rows as uint8 pictures (K, H, W, 3), or None where they are no pictures."""
    if rows.ndim == 4 and rows.shape[-1] in (1, 3, 4):
        pictures = rows[..., :3]
    elif rows.ndim == 4 and rows.shape[1] in (1, 3, 4):
        pictures = np.moveaxis(rows[:, :3], 1, -1)
    elif rows.ndim == 3 and min(rows.shape[1:]) >= 4:
        pictures = rows[..., None]
    else:
        return None
    if min(pictures.shape[1:3]) < 4:
        return None
    if pictures.dtype != np.uint8:
        pictures = pictures.astype(np.float64)
        low, high = pictures.min(), pictures.max()
        if low < 0:  # the usual [-1, 1], or what is left of it
            bound = max(-low, high, 1.0)
            pictures = (pictures + bound) * (127.5 / bound)
        elif high <= 1:
            pictures = pictures * 255
        pictures = pictures.round().clip(0, 255).astype(np.uint8)
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3))
