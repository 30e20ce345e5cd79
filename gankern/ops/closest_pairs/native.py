"""The search on the CPU: plain torch around the steps of csrc/closest_pairs.

A few leading directions, found on a subsample, give each row a short point whose distances are lower bounds
(`bounds.py`). Tiles of pairs are tested against tau, the k-th best distance so far, after 16 and after 64 directions;
what is left is measured by direct differences. Where the spectrum is flat and bounds would not prune, whole rows take
the place of short points: the same tiles are then a matrix product over half of the matrix.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern.ops.closest_pairs import bounds, progress
from gankern.ops.closest_pairs.frame import DIRECTIONS, centred, far_rows, frame, leading, likely_pairs, orthogonality
from gankern.ops.closest_pairs.rows import (
    as_matrix,
    check_finite,
    distance_dtype,
    first_pairs,
    sorted_best,
    spread_rows,
)

#: Rows of a tile, as in csrc/closest_pairs/core.h.
TILE = 192
_ENDS = [16, DIRECTIONS]
_BLOCK_BYTES = 128 << 20
_FEW_PAIRS = 4096


class Stats(NamedTuple):
    """How a search went.

    Attributes:
        method: "prefix", "whole" or "direct".
        pairs: N (N - 1) / 2.
        dimensions: coordinates visited per pair, on average, as a fraction of the row length.
        exact: pairs measured by direct differences in float64.
    """

    method: str
    pairs: int
    dimensions: float
    exact: int


#: Packed points, h', tails, and the number of the first row.
_Side = tuple[Tensor, Tensor, Tensor, int]


class Best(NamedTuple):
    """The best pairs so far, sorted: squared distance, i, j."""

    squared: Tensor
    i: Tensor
    j: Tensor


def _native() -> Any:
    return torch.ops.gankern_native


def search(x: Tensor, k: int, report: progress.Progress | None = None) -> tuple[Best, Stats]:
    """The k closest pairs of the rows of x, (N, D) contiguous on the CPU; k is at least 1 and at most N (N - 1) / 2."""
    n, d = x.shape
    pairs = n * (n - 1) // 2
    if d == 0 or k == 0:
        i, j = first_pairs(n, k)
        return Best(torch.zeros(k, dtype=torch.float64), i, j), Stats("direct", pairs, 0.0, 0)
    if pairs <= max(_FEW_PAIRS, 2 * k):
        check_finite("closest_pairs", "x", x)
        i, j = torch.triu_indices(n, n, 1)
        found = sorted_best(_native().closest_pairs_distances(x, x, i, j), i, j, k)
        return Best(*found), Stats("direct", pairs, 1.0, pairs)
    return _Hunt(x, k, report).run()


class _Hunt:
    """One search of one sample."""

    def __init__(self, x: Tensor, k: int, report: progress.Progress | None) -> None:
        self.x, self.k, self.progress = x, k, report
        self.n, self.d = x.shape
        self.frame = frame(x, "closest_pairs")
        self.best = Best(*(torch.empty(0, dtype=t) for t in (torch.float64, torch.int64, torch.int64)))
        self.seed = math.inf
        self.work = self.exact = 0
        self.done, self.pairs = 0, self.n * (self.n - 1) // 2

    def run(self) -> tuple[Best, Stats]:
        basis = leading(self.x, self.frame, DIRECTIONS) if self.d > 2 * DIRECTIONS else None
        method = "prefix" if basis is not None and self._by_prefix(basis) else "whole"
        if method == "whole":
            self._by_whole_rows()
        dimensions = (self.work / self.d + self.exact) / self.pairs
        return self.best, Stats(method, self.pairs, dimensions, self.exact)

    # -- short points ----------------------------------------------------------------------------------------------
    def _by_prefix(self, basis: Tensor) -> bool:
        """False, with only `seed` changed, where bounds would not prune."""
        features, norms = _native().closest_pairs_project(self.x, self.frame.centre, self.frame.scale, basis)
        self.work += self.n * self.d * basis.shape[0]
        far = far_rows(self.x, norms, bounds.LARGEST, "closest_pairs", "x")
        if far.numel():
            features[far], norms[far] = 0, 0
        half, tails = bounds.prefixes(features, norms, _ENDS, self.d, orthogonality(basis))
        half[far] = torch.finfo(torch.float32).max
        if not self._seed_prefix(features, half, tails):
            return False
        packed = _native().closest_pairs_pack(features)
        side = (packed, half, tails, 0)
        segments = torch.tensor([[end, number] for number, end in enumerate(_ENDS)])
        self._scan(side, side, segments, bounds.PREFIX_MARGIN)
        self._direct(far)
        return True

    def _seed_prefix(self, features: Tensor, half: Tensor, tails: Tensor) -> bool:
        rows = spread_rows(self.n, max(256, min(1024, self.n // 8), math.isqrt(16 * self.k)))
        points = torch.cat((features[rows], tails[-1][rows, None]), 1)
        value = (points @ points.T).sub_(half[rows, None]).sub_(half[rows])
        self._seed_from(value, rows)
        theta = 0.5 * (1 + bounds.PREFIX_MARGIN) * (self.frame.scale * math.sqrt(self.seed)) ** 2
        hits = int((value >= -theta).sum()) - len(rows)
        # A direct distance costs about ten times as much per coordinate as a matrix product does.
        return hits / (len(rows) * (len(rows) - 1)) < 0.05

    def _seed_from(self, value: Tensor, rows: Tensor) -> None:
        """Sets `seed` to a squared distance that k pairs do not exceed, chosen by the largest of `value`."""
        i, j = likely_pairs(value, rows, self.k)
        if len(i) >= self.k:
            squared = _native().closest_pairs_distances(self.x, self.x, i, j)
            self.seed = min(self.seed, float(squared.kthvalue(self.k).values))

    # -- whole rows ------------------------------------------------------------------------------------------------
    def _by_whole_rows(self) -> None:
        rows = max(4 * TILE, _BLOCK_BYTES // (4 * self.d)) // TILE * TILE
        begins = range(0, self.n, rows)
        all_far = []
        for a0 in begins:
            a, far = self._whole(a0, min(a0 + rows, self.n))
            all_far.append(far + a0)
            if a0 == 0:
                self._seed_whole()
            for b0 in begins[a0 // rows :]:
                b = a if a0 == b0 else self._whole(b0, min(b0 + rows, self.n))[0]
                self._scan(a, b, whole_segments(self.d), bounds.WHOLE_MARGIN)
        self._direct(torch.cat(all_far))

    def _whole(self, begin: int, end: int) -> tuple[_Side, Tensor]:
        packed, norms = _native().closest_pairs_points(self.x, begin, end, self.frame.centre, self.frame.scale)
        far = far_rows(self.x[begin:end], norms, bounds.LARGEST, "closest_pairs", "x", begin)
        half = bounds.whole(norms, self.d)
        if far.numel():
            half[far] = torch.finfo(torch.float32).max
            packed[far // packed.shape[2], :, far % packed.shape[2]] = 0
        return (packed, half, torch.zeros(1, end - begin), begin), far

    def _seed_whole(self) -> None:
        rows = spread_rows(self.n, max(256, math.isqrt(16 * self.k)))
        w = centred(self.x, rows, self.frame)
        half = 0.5 * w.square().sum(1)
        self._seed_from((w @ w.T).sub_(half[:, None]).sub_(half), rows)

    # -- both ------------------------------------------------------------------------------------------------------
    def _scan(self, a: _Side, b: _Side, segments: Tensor, margin: float) -> None:
        """Offers the pairs of two sides, in bands of row tiles where that is long."""
        tiles, same = -(-len(a[1]) // TILE), a[3] == b[3]
        long = self.progress is not None or tiles * len(b[1]) > 10_000_000
        band = -(-tiles // 20) if long else tiles
        for begin in range(0, tiles, band):
            end = min(begin + band, tiles)
            *best, counts = _native().closest_pairs_scan(
                self.x, *a, *b, segments, begin, end, self.frame.scale, margin, self.seed, self.k, *self.best
            )
            self.best = Best(*best)
            work, exact = counts.tolist()
            self.work += work
            self.exact += exact
            self._report(begin * TILE, min(end * TILE, len(a[1])), len(a[1]) if same else None, len(b[1]))

    def _report(self, begin: int, end: int, upper: int | None, columns: int) -> None:
        rows = end - begin
        self.done += rows * columns if upper is None else rows * upper - (begin + end + 1) * rows // 2
        if self.progress is not None:
            self.progress(min(self.done, self.pairs), self.pairs)

    def _direct(self, far: Tensor) -> None:
        """All pairs of the rows that the filter cannot hold."""
        for count, row in enumerate(far.tolist()):
            others = torch.arange(self.n)
            others = others[(others != row) & ~torch.isin(others, far[:count])]
            i, j = others.clamp_max(row), others.clamp_min(row)
            squared = _native().closest_pairs_distances(self.x, self.x, i, j)
            self.exact += len(i)
            old = self.best
            merged = torch.cat((old.squared, squared)), torch.cat((old.i, i)), torch.cat((old.j, j))
            self.best = Best(*sorted_best(*merged, self.k))


def whole_segments(d: int) -> Tensor:
    """Runs of whole rows, and one test at the end."""
    ends = [*range(bounds.RUN, d, bounds.RUN), d]
    return torch.tensor([[end, -1 if end < d else 0] for end in ends])


def closest_pairs(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The operator gankern_native::closest_pairs."""
    best, _ = search(as_matrix(x), k, progress.current())
    return best.squared.sqrt().to(distance_dtype(x)), best.i, best.j
