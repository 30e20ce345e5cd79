"""The search on a GPU, on the filter of closest_pairs: a bound for each row, in its limit.

Every row starts with the distance of the k best of a sample of y. The pairs that the filter keeps are measured exactly
and merged into the best of their rows, which lowers the bounds for the next region. A region with more survivors than
the list holds is tried again after the bounds were lowered by those that are in it, then halved.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankern.ops._triton import AotSpec
from gankern.ops.closest_pairs import bounds, triton_steps
from gankern.ops.closest_pairs.frame import Frame
from gankern.ops.closest_pairs.rows import as_matrix, distance_dtype
from gankern.ops.closest_pairs.triton_kernels import tensor_frame, whole_points
from gankern.ops.closest_pairs.triton_steps import TILE, Points, Region, distances, padded
from gankern.ops.nearest.exact import FEW_PAIRS, NO_ROW, direct, direct_rows, starting_bounds, with_far_columns

#: Pairs in the list of survivors: at least a tile's.
CAPACITY = 1 << 20
_BLOCK_BYTES = 1 << 29
#: One row of y in so many, but this many at least, is measured for the starting bounds.
_SHARE, _LEAST = 32, 256


def merged(best: tuple[Tensor, Tensor], rows: Tensor, squared: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The best k of each row by (squared distance, index), of those so far, (N, k), and of some new ones."""
    n, k = best[0].shape
    every = torch.arange(n, device=rows.device)
    rows = torch.cat((every.repeat_interleave(k), rows))
    squared, index = torch.cat((best[0].reshape(-1), squared)), torch.cat((best[1].reshape(-1), index))
    order = index.argsort(stable=True)
    for key in (squared, rows):
        order = order[key[order].argsort(stable=True)]
    first = torch.searchsorted(rows[order], every)
    kept = order[first[:, None] + torch.arange(k, device=rows.device)]
    return squared[kept], index[kept]


class _Block:
    """Some rows of x, while all rows of y are searched."""

    def __init__(self, x: Tensor, y: Tensor, a: Points, k: int, distinct: bool, view: Frame) -> None:
        self.x, self.y, self.a, self.k, self.distinct, self.view = x, y, a, k, distinct, view
        share = max(_LEAST, len(y) // _SHARE)
        self.bound = starting_bounds(distances, x, a.first, a.first + a.size, y, view, k, distinct, share)
        self.best = self._nothing()
        self.capacity = max(CAPACITY, TILE * TILE)
        expected = 2 * k * len(y) // share + 1
        self.rows = max(1, self.capacity // (2 * expected * TILE))

    def _nothing(self) -> tuple[Tensor, Tensor]:
        shape, device = (self.a.size, self.k), self.x.device
        return torch.full(shape, math.inf, dtype=torch.float64, device=device), torch.full(shape, NO_ROW, device=device)

    def _cut(self) -> Tensor:
        """The row of y from which on none can help: decided where the bound is zero alone."""
        last = self.best[1][:, -1]
        return padded(torch.where((self.bound == 0) & (last != NO_ROW), last, len(self.y)), 0)

    def search(self, b: Points) -> None:
        """Offers the rows b of y to all rows of the block."""
        tiles = self.a.tiles
        bands = range(0, tiles, self.rows)
        regions = [Region(row, min(row + self.rows, tiles), 0, b.tiles, False) for row in reversed(bands)]
        while regions:
            region = regions.pop()
            theta = bounds.threshold(self.bound, self.view.scale, bounds.PREFIX_MARGIN, self.x.shape[1])
            limit = bounds.limits(self.a.half, padded(theta, 0.0))
            i, j, whole = triton_steps.survivors(self.a, b, region, limit, self._cut(), self.distinct, self.capacity)
            squared = distances(self.x, self.y, i, j)
            if whole:
                self.best = merged(self.best, i - self.a.first, squared, j)
                self.bound = torch.minimum(self.bound, self.best[0][:, -1])
                continue
            known = merged(self._nothing(), i - self.a.first, squared, j)[0][:, -1]
            lower = bool((known < self.bound).any())
            self.bound = torch.minimum(self.bound, known)
            regions += [region._replace(again=True)] if lower and not region.again else reversed(region.parts())


def _search(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    distinct, others = y is None, x if y is None else y
    n, m, d = len(x), len(others), x.shape[1]
    if n == 0 or d == 0 or k == 0 or n * m <= FEW_PAIRS or 2 * k >= m:
        return direct(distances, x, others, k, distinct)
    name = "x" if distinct else "y"
    view = tensor_frame(others, "nearest", name)
    rows = max(4 * TILE, _BLOCK_BYTES // (2 * d) // TILE * TILE)
    found = []
    for a0 in range(0, n, rows):
        a, own_far = whole_points(x, a0, min(a0 + rows, n), view, "nearest", "x")
        block, far = _Block(x, others, a, k, distinct, view), []
        for b0 in range(0, m, rows):
            same = distinct and a0 == b0
            b, b_far = (a, own_far) if same else whole_points(others, b0, min(b0 + rows, m), view, "nearest", name)
            far.append(b_far + b0)
            block.search(b)
        squared, index = with_far_columns(distances, x, a0, others, torch.cat(far), *block.best, distinct)
        if own_far.numel():
            squared[own_far], index[own_far] = direct_rows(distances, x, others, own_far + a0, k, distinct)
        found.append((squared, index))
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def nearest(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The operator gankern_triton::nearest."""
    squared, index = _search(as_matrix(x), None if y is None else as_matrix(y), k)
    return squared.sqrt().to(distance_dtype(x)), index


def aot_specs() -> list[AotSpec]:
    """The filter over rectangles; the other kernels that this launches are those of closest_pairs."""
    return [triton_steps.filter_spec(False)]
