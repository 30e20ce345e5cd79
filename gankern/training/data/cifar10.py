"""CIFAR-10 from its published binary files."""

from __future__ import annotations

import numpy as np
import torch

from gankern.training.data.files import content, place
from gankern.training.data.source import DataError, Source

FOLDER = "cifar-10-batches-bin"
_RECORD = 1 + 3 * 32 * 32


def open_folder(path: str) -> Source:
    """50,000 images, (3, 32, 32).

    Raises:
        DataError: the files are not there, are the pickled version, or are of a wrong size.
    """
    folder = place(path, FOLDER)
    files = sorted(folder.glob("data_batch_*.bin"))
    if not files:
        asked = f"put data_batch_1.bin to data_batch_5.bin of the binary version into {folder}, or: cifar10:DIR"
        pickled = [p for f in (folder, folder.with_name("cifar-10-batches-py")) for p in (f / "data_batch_1",)]
        if any(p.is_file() for p in pickled):
            raise DataError(f"cifar10: pickled files are refused, for loading one can run any code: {asked}")
        raise DataError(f"cifar10: {asked}")
    batches = []
    for file in files:
        data = content(file)
        if not len(data) or len(data) % _RECORD:
            raise DataError(f"{file}: {len(data)} bytes are no whole number of records of {_RECORD}")
        batches.append(data.reshape(-1, _RECORD)[:, 1:].reshape(-1, 3, 32, 32))
    return Source("cifar10", (3, 32, 32), rows=torch.from_numpy(np.concatenate(batches)))
