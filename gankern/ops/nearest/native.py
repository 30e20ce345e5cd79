"""The search on the CPU: half-norms with slack, tiles of a matrix product, direct differences for what is left."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gankern.ops.closest_pairs import bounds
from gankern.ops.closest_pairs.native import Frame, centred, far_rows, frame, whole_segments
from gankern.ops.closest_pairs.rows import as_matrix, check_finite, distance_dtype, spread_rows

_BLOCK_BYTES = 128 << 20
_FEW_PAIRS = 4096
_NO_ROW = torch.iinfo(torch.int64).max


def _native() -> Any:
    return torch.ops.gankern_native


def _distances(x: Tensor, y: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Squared distances between every one of some rows of x and every one of some rows of y."""
    i, j = rows.repeat_interleave(len(others)), others.repeat(len(rows))
    return _native().closest_pairs_distances(x, y, i, j).view(len(rows), len(others))


def _least(squared: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k least of each row by (squared distance, index); NaN is last."""
    order = index.sort(dim=1, stable=True).indices
    squared, index = squared.gather(1, order), index.gather(1, order)
    order = squared.sort(dim=1, stable=True).indices[:, :k]
    return squared.gather(1, order), index.gather(1, order)


class _Side:
    """A block of rows as packed points."""

    def __init__(self, x: Tensor, begin: int, end: int, frame: Frame, name: str) -> None:
        self.x, self.begin, self.end = x, begin, end
        self.packed, norms = _native().closest_pairs_points(x, begin, end, frame.centre, frame.scale)
        self.far = far_rows(x[begin:end], norms, "nearest", name, begin)
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
    if n == 0 or d == 0 or n * m <= _FEW_PAIRS or 2 * k >= m:
        return _direct(x, others, k, distinct)
    view = frame(others, "nearest", "x" if distinct else "y")
    rows = max(768, _BLOCK_BYTES // (4 * d))
    found = []
    for a0 in range(0, n, rows):
        a = _Side(x, a0, min(a0 + rows, n), view, "x")
        count = a.end - a0
        bound = _bounds(a, others, view, k, distinct)
        squared = torch.full((count, k), math.inf, dtype=torch.float64)
        index = torch.full((count, k), _NO_ROW)
        far = []
        for b0 in range(0, m, rows):
            same = distinct and b0 == a0
            b = a if same else _Side(others, b0, min(b0 + rows, m), view, "x" if distinct else "y")
            far.append(b.far + b0)
            bound, squared, index, _ = _native().nearest_scan(
                *(x, others, *a.operands, *b.operands, whole_segments(d), view.scale, bounds.WHOLE_MARGIN),
                *(distinct, bound, squared, index),
            )
        found.append(_with_far(a, others, torch.cat(far), squared, index, distinct))
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def _bounds(a: _Side, y: Tensor, view: Frame, k: int, distinct: bool) -> Tensor:
    """For each row a squared distance that k rows of y do not exceed: from a sample of y, chosen by a product."""
    sample = spread_rows(len(y), max(256, 4 * k))
    right = centred(y, sample, view)
    half = 0.5 * right.square().sum(1)
    bound = torch.empty(a.end - a.begin, dtype=torch.float64)
    for begin in range(a.begin, a.end, 4096):
        rows = torch.arange(begin, min(begin + 4096, a.end))
        value = (centred(a.x, rows, view) @ right.T).sub_(half)
        if distinct:
            value.masked_fill_(rows[:, None] == sample, -torch.inf)
        chosen = sample[value.nan_to_num_(-torch.inf).topk(k).indices]
        i = rows[:, None].expand_as(chosen).reshape(-1)
        squared = _native().closest_pairs_distances(a.x, y, i, chosen.reshape(-1)).view(-1, k)
        if distinct:
            squared[rows[:, None] == chosen] = math.inf
        bound[begin - a.begin : begin - a.begin + len(rows)] = squared.amax(1)
    return bound


def _with_far(
    a: _Side, y: Tensor, far: Tensor, squared: Tensor, index: Tensor, distinct: bool
) -> tuple[Tensor, Tensor]:
    """Adds the rows, on either side, that the filter cannot hold."""
    k = squared.shape[1]
    for column in far.split(64) if far.numel() else ():
        rows = torch.arange(a.begin, a.end)
        more = _distances(a.x, y, rows, column)
        if distinct:
            more[rows[:, None] == column] = torch.nan
        numbers = torch.where(more.isnan(), _NO_ROW, column.expand_as(more))
        squared, index = _least(torch.cat((squared, more), 1), torch.cat((index, numbers), 1), k)
    for row in a.far.tolist():
        squared[row : row + 1], index[row : row + 1] = _direct_rows(a.x, y, torch.tensor([a.begin + row]), k, distinct)
    return squared, index


def _direct_rows(x: Tensor, y: Tensor, rows: Tensor, k: int, distinct: bool) -> tuple[Tensor, Tensor]:
    everything = torch.arange(len(y))
    squared = _distances(x, y, rows, everything)
    if distinct:
        squared[rows[:, None] == everything] = torch.nan
    return _least(squared, everything.expand_as(squared), k)


def _direct(x: Tensor, y: Tensor, k: int, distinct: bool) -> tuple[Tensor, Tensor]:
    check_finite("nearest", "x", x)
    if not distinct:
        check_finite("nearest", "y", y)
    rows = max(1, (1 << 22) // max(len(y), 1))
    blocks = [torch.arange(begin, min(begin + rows, len(x))) for begin in range(0, len(x), rows)]
    found = [_direct_rows(x, y, block, k, distinct) for block in blocks]
    if not found:
        return torch.empty(0, k, dtype=torch.float64), torch.empty(0, k, dtype=torch.int64)
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def nearest(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The operator gankern_native::nearest."""
    squared, index = search(as_matrix(x), None if y is None else as_matrix(y), k)
    return squared.sqrt().to(distance_dtype(x)), index
