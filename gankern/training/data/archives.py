"""Arrays from an .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gankern.diagnostics.inputs import InputError, load_samples
from gankern.training.data.source import DataError, Source


def open_archive(path: str) -> Source:
    """arr_0: (N, features) vectors; images (N, H, W), (N, H, W, C) or (N, C, H, W), of uint8 or floats.

    Float images lie in [-1, 1], or in [0, 1] if none of their values is negative.

    Raises:
        DataError: there is no such file, or its array is nothing of that kind.
    """
    file = Path(path)
    if not file.is_file() or file.suffix != ".npz":
        raise DataError(f"npz: expected an .npz file with an array arr_0 at {path}")
    try:
        array = load_samples(file)
    except InputError as error:
        raise DataError(str(error)) from None
    if not np.isfinite(array).all():
        raise DataError(f"{file}: NaN or infinite values")
    if array.ndim == 2:
        return Source(f"npz:{file.name}", (array.shape[1],), rows=torch.from_numpy(array.astype(np.float32)))
    images = _channels_first(file, array)
    return Source(f"npz:{file.name}", tuple(images.shape[1:]), rows=images)


def _channels_first(file: Path, array: np.ndarray) -> torch.Tensor:
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[-1] in (1, 3):
        array = np.moveaxis(array, -1, 1)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise DataError(f"{file}: expected vectors or images of 1 or 3 channels, got shape {array.shape}")
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    low, high = float(array.min()), float(array.max())
    if low < -1 or high > 1:
        raise DataError(f"{file}: float images must lie in [-1, 1] or [0, 1], these in [{low:.3g}, {high:.3g}]")
    values = array.astype(np.float32)
    return torch.from_numpy(values if low < 0 else 2 * values - 1)
