"""Sample sheets: the same latent vectors, step after step."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gankern.training import files
from gankern.training.data import Source

_CELL = 48
_POINTS = 512
_BARS = 64
_BLUE, _LIGHT = (47, 111, 179), (200, 205, 212)


def count(source: Source) -> int:
    """How many samples a sheet shows."""
    return 64 if source.is_image else 2000


def pixels(images: Tensor) -> np.ndarray:
    """(N, C, H, W) in [-1, 1] as uint8 (N, H, W, 3)."""
    scaled = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.broadcast_to(np.moveaxis(scaled.numpy(), 1, -1), (len(images), *images.shape[2:], 3))


def grid(images: Tensor, columns: int | None = None) -> np.ndarray:
    """One picture (H, W, 3) of all images, small ones enlarged without smoothing."""
    columns = columns or max(1, math.isqrt(len(images)))
    tiles = pixels(images)
    factor = max(1, _CELL // tiles.shape[1])
    tiles = tiles.repeat(factor, 1).repeat(factor, 2)
    gap = max(1, tiles.shape[1] // 16)
    tiles = np.pad(tiles, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    missing = -len(tiles) % columns
    tiles = np.concatenate([tiles, np.full((missing, *tiles.shape[1:]), 255, np.uint8)])
    rows = [np.concatenate(list(tiles[k : k + columns]), 1) for k in range(0, len(tiles), columns)]
    return np.concatenate(rows)[:-gap, :-gap]


def png(picture: np.ndarray) -> bytes:
    """A picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _scatter(samples: np.ndarray, source: Source) -> np.ndarray:
    """Vectors as points, above real ones in grey; one dimension as histograms."""
    real = source.sample(4096).numpy()
    low, high = real.min(0), real.max(0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    picture = np.full((_POINTS, _POINTS, 3), 255, np.uint8)
    if source.shape[0] == 1:
        edges = np.linspace(low[0], high[0], _BARS + 1)
        shares = [np.histogram(rows, edges)[0] / len(rows) for rows in (real, samples)]
        width, top = _POINTS // _BARS, max(share.max() for share in shares)
        for share, colour, inset in zip(shares, (_LIGHT, _BLUE), (0, 2), strict=True):
            for bar, height in enumerate(np.rint(share / top * (_POINTS - 8)).astype(int)):
                picture[_POINTS - height :, bar * width + inset : (bar + 1) * width - inset] = colour
        return picture
    for points, colour in ((real, _LIGHT), (samples, _BLUE)):
        place = ((points[:, :2] - low[:2]) / (high[:2] - low[:2]) * (_POINTS - 1)).round()
        inside = np.isfinite(place).all(1) & (place >= 1).all(1) & (place < _POINTS - 1).all(1)
        x, y = place[inside].astype(int).T
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                picture[_POINTS - 1 - (y + dy), x + dx] = colour
    return picture


def write(folder: Path, step: int, samples: Tensor, source: Source) -> np.ndarray:
    """Writes folder/step-NNNNNNNN.png, and vectors themselves as .npy; returns the picture (H, W, 3).

    Raises:
        OSError: it could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f"step-{step:08d}"
    picture = grid(samples) if source.is_image else _scatter(samples.numpy(), source)
    files.write(name.with_suffix(".png"), png(picture))
    if not source.is_image:
        buffer = io.BytesIO()
        np.save(buffer, samples.numpy())
        files.write(name.with_suffix(".npy"), buffer.getvalue())
    return picture
