"""The search on the CPU: half-norms with slack, tiles of a matrix product, direct differences for what is left."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gankern.ops.closest_pairs import bounds
from gankern.ops.closest_pairs.frame import Frame, far_rows, frame
from gankern.ops.closest_pairs.native import whole_segments
from gankern.ops.closest_pairs.rows import as_matrix, distance_dtype
from gankern.ops.nearest.exact import FEW_PAIRS, NO_ROW, direct, direct_rows, starting_bounds, with_far_columns

_BLOCK_BYTES = 128 << 20
_SAMPLE = 256


def _native() -> Any:
    return torch.ops.gankern_native


def _distances(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return _native().closest_pairs_distances(x, y, i, j)


class _Side:
    """A block of rows as packed points."""

    def __init__(self, x: Tensor, begin: int, end: int, frame: Frame, name: str) -> None:
        self.x, self.begin, self.end = x, begin, end
        self.packed, norms = _native().closest_pairs_points(x, begin, end, frame.centre, frame.scale)
        self.far = far_rows(x[begin:end], norms, bounds.LARGEST, "nearest", name, begin)
        self.half = bounds.whole(norms, x.shape[1])
        if self.far.numel():
            self.half[self.far] = torch.finfo(torch.float32).max
            self.packed[self.far // self.packed.shape[2], :, self.far % self.packed.shape[2]] = 0

    @property
    def operands(self) -> tuple[Tensor, Tensor, int]:
        return self.packed, self.half, self.begin


def search(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances and indices, (N, k), for contiguous (N, D) and (M, D) on the CPU."""
    distinct, others = y is None, x if y is None else y
    n, m, d = len(x), len(others), x.shape[1]
    if n == 0 or d == 0 or k == 0 or n * m <= FEW_PAIRS or 2 * k >= m:
        return direct(_distances, x, others, k, distinct)
    view = frame(others, "nearest", "x" if distinct else "y")
    rows = max(768, _BLOCK_BYTES // (4 * d))
    found = []
    for a0 in range(0, n, rows):
        a = _Side(x, a0, min(a0 + rows, n), view, "x")
        count = a.end - a0
        bound = starting_bounds(_distances, x, a0, a.end, others, view, k, distinct, _SAMPLE)
        squared = torch.full((count, k), math.inf, dtype=torch.float64)
        index = torch.full((count, k), NO_ROW)
        far = []
        for b0 in range(0, m, rows):
            same = distinct and b0 == a0
            b = a if same else _Side(others, b0, min(b0 + rows, m), view, "x" if distinct else "y")
            far.append(b.far + b0)
            bound, squared, index, _ = _native().nearest_scan(
                *(x, others, *a.operands, *b.operands, whole_segments(d), view.scale, bounds.WHOLE_MARGIN),
                *(distinct, bound, squared, index),
            )
        squared, index = with_far_columns(_distances, x, a0, others, torch.cat(far), squared, index, distinct)
        if a.far.numel():
            squared[a.far], index[a.far] = direct_rows(_distances, x, others, a.far + a0, k, distinct)
        found.append((squared, index))
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def nearest(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The operator gankern_native::nearest."""
    squared, index = search(as_matrix(x), None if y is None else as_matrix(y), k)
    return squared.sqrt().to(distance_dtype(x)), index
