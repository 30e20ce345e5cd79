"""Numbers of a run: a JSON line per logged step, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gankern.training import files


class Metrics:
    """metrics.jsonl of a run.

    A resumed run drops what was logged after the step that it goes on from, also a last line cut off by a crash.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [row for row in read(self.path) if row["step"] <= step]
        files.write(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = self.path.open("a")
        self._board = _board(folder, step)

    def log(self, row: dict[str, Any]) -> None:
        """Adds one row; numbers in it go to TensorBoard too."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            for key, value in row.items():
                if isinstance(value, float):
                    self._board.add_scalar(key.replace(".", "/", 1), value, row["step"])

    def image(self, step: int, picture: np.ndarray) -> None:
        """Sends a sheet (H, W, 3) to TensorBoard."""
        if self._board is not None:
            self._board.add_image("samples", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Ends it."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a metrics file, damaged ones left out; none if there is no such file."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
