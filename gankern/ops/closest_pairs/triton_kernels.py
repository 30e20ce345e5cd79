"""The search on a GPU: plain torch around the kernels of `triton_filter.py`.

As on the CPU, a few leading directions give each row a short point whose distances are lower bounds; where the
spectrum is flat and bounds would not prune, whole rows take their place. All pairs of a region pass a float16 filter
against tau, the k-th best distance so far; the survivors are measured exactly and ranked. A region with more survivors
than the list holds first lowers tau, by the pairs that are in it, and is tried again; if that does not help it is
halved, down to single tiles, which always fit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankern.ops._triton import AotSpec, ceil_div
from gankern.ops.closest_pairs import bounds, progress, triton_steps
from gankern.ops.closest_pairs.frame import (
    DIRECTIONS,
    Frame,
    centred,
    far_rows,
    frame,
    leading,
    likely_pairs,
    orthogonality,
)
from gankern.ops.closest_pairs.rows import (
    as_matrix,
    check_finite,
    distance_dtype,
    first_pairs,
    sorted_best,
    spread_rows,
)
from gankern.ops.closest_pairs.triton_steps import STEP, TILE, Points, Region, distances

_FEW_PAIRS = 4096
#: Pairs in the list of survivors: at least a tile's, and a few times k.
CAPACITY = 1 << 18
#: Points of whole rows are made in blocks of this many bytes.
_BLOCK_BYTES = 1 << 29
#: Of the sampled pairs, so many may pass the short points' test: an exact distance costs some 800 times as much as a
#: pair's share of a float16 product.
_MOST_HITS = 1e-3


def tensor_frame(x: Tensor, op: str, name: str = "x") -> Frame:
    """The frame with norms in the middle of float16's range."""
    found = frame(x, op, name)
    return Frame(found.centre, found.scale * bounds.TENSOR_SCALE)


def whole_points(x: Tensor, begin: int, end: int, view: Frame, op: str, name: str) -> tuple[Points, Tensor]:
    """Rows [begin, end) as points, and those of them (from 0) that the filter cannot hold; raises for NaN and Inf."""
    data, squares, rest = triton_steps.points(x, begin, end, view)
    norms = squares + rest
    far = far_rows(x[begin:end], norms, bounds.TENSOR_LARGEST, op, name, begin)
    half = bounds.tensor_half(squares, rest, 2.0**-40 * norms.sqrt() + 2.0**-100, x.shape[1])
    return _side(data, half, far, begin), far


def _side(data: Tensor, half: Tensor, far: Tensor, first: int) -> Points:
    largest = torch.finfo(torch.float32).max
    half = half.index_fill(0, far, largest)
    return Points(data, triton_steps.padded(half, largest), len(half), first)


class _Hunt:
    """One search of one sample."""

    def __init__(self, x: Tensor, k: int) -> None:
        self.x, self.k = x, k
        self.n, self.d = x.shape
        self.frame = tensor_frame(x, "closest_pairs")
        self.bound = math.inf
        empty = torch.empty(0, dtype=torch.int64, device=x.device)
        self.best = empty.double(), empty, empty
        self.capacity = max(CAPACITY, TILE * TILE, 4 * k)
        self.done, self.pairs, self.report = 0, self.n * (self.n - 1) // 2, progress.current()

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        basis = leading(self.x, self.frame, DIRECTIONS - 1) if self.d > 2 * DIRECTIONS else None
        if basis is None or not self._by_prefix(basis):
            self._by_whole_rows()
        self._report(self.pairs)
        return self.best

    # -- seeds -----------------------------------------------------------------------------------------------------
    def _seed(self, points: Tensor, half: Tensor, rows: Tensor) -> Tensor:
        """Lowers the bound by some pairs of a sample, and gives the filter's values of all pairs of it."""
        value = (points @ points.T).sub_(half[:, None]).sub_(half)
        i, j = likely_pairs(value.clone(), rows, self.k)
        if len(i) >= self.k:
            self._lower(distances(self.x, self.x, i, j))
        return value

    def _lower(self, squared: Tensor) -> None:
        """By the distances of k or more different pairs."""
        self.bound = min(self.bound, float(squared.kthvalue(self.k).values))

    # -- short points ----------------------------------------------------------------------------------------------
    def _by_prefix(self, basis: Tensor) -> bool:
        """False, with only the bound changed, where bounds would not prune."""
        features, norms = triton_steps.project(self.x, self.frame, basis)
        far = far_rows(self.x, norms, bounds.TENSOR_LARGEST, "closest_pairs", "x")
        features, norms = features.index_fill(0, far, 0), norms.index_fill(0, far, 0)
        points, half = bounds.short_points(features, norms, orthogonality(basis))
        side = _side(torch.nn.functional.pad(points, (0, 0, 0, -self.n % TILE)), half, far, 0)
        rows = spread_rows(self.n, max(256, min(4096, self.n // 8), math.isqrt(16 * self.k))).to(self.x.device)
        some = points[rows].float()
        value = self._seed(some, side.half[rows], rows)
        hits = int((value >= -float(self._theta())).sum()) - len(rows)
        if hits > _MOST_HITS * len(rows) * (len(rows) - 1) + 4 * self.k:
            return False
        self._scan(side, side)
        self._direct(far)
        return True

    # -- whole rows ------------------------------------------------------------------------------------------------
    def _by_whole_rows(self) -> None:
        rows = spread_rows(self.n, max(256, min(4096, (1 << 24) // self.d), math.isqrt(16 * self.k))).to(self.x.device)
        w = centred(self.x, rows, self.frame)
        self._seed(w, 0.5 * w.square().sum(1), rows)
        block = max(4, _BLOCK_BYTES // (2 * TILE * ceil_div(self.d, STEP) * STEP)) * TILE
        begins, all_far = range(0, self.n, block), []
        for a0 in begins:
            a, far = self._whole(a0, block)
            all_far.append(far + a0)
            for b0 in begins[a0 // block :]:
                self._scan(a, a if a0 == b0 else self._whole(b0, block)[0])
        self._direct(torch.cat(all_far))

    def _whole(self, begin: int, block: int) -> tuple[Points, Tensor]:
        return whole_points(self.x, begin, min(begin + block, self.n), self.frame, "closest_pairs", "x")

    # -- both ------------------------------------------------------------------------------------------------------
    def _theta(self) -> Tensor:
        bound = torch.tensor(self.bound, dtype=torch.float64, device=self.x.device)
        return bounds.threshold(bound, self.frame.scale, bounds.PREFIX_MARGIN, self.d)

    def _cut(self, a: Points) -> Tensor:
        """For each row of a, the number from which on no partner can help: decided where the bound is zero alone."""
        cut = torch.full((len(a.half),), self.n, device=self.x.device)
        if self.bound == 0 and len(self.best[0]) == self.k:
            last_i, last_j = int(self.best[1][-1]) - a.first, int(self.best[2][-1])
            cut[max(last_i, 0) :] = 0
            if 0 <= last_i < len(cut):
                cut[last_i] = last_j
        return cut

    def _scan(self, a: Points, b: Points) -> None:
        same = a.first == b.first
        regions = [Region(0, a.tiles, 0, b.tiles, same)]
        while self.report is not None and len(regions) < 16 and any(region.divisible for region in regions):
            regions = [part for region in regions for part in region.parts()]
        regions.reverse()
        while regions:
            region = regions.pop()
            limit = bounds.limits(a.half, self._theta())
            i, j, whole = triton_steps.survivors(a, b, region, limit, self._cut(a), False, self.capacity)
            squared = distances(self.x, self.x, i, j)
            if whole:
                self._merge(squared, i, j)
                if len(self.best[0]) == self.k:
                    self.bound = min(self.bound, float(self.best[0][-1]))
                self._report(region.pairs(a, b))
                continue
            before = self.bound
            self._lower(squared)
            if self.bound < before and not region.again:
                regions.append(region._replace(again=True))
            else:
                regions += reversed(region.parts())

    def _merge(self, squared: Tensor, i: Tensor, j: Tensor) -> None:
        a, b, c = self.best
        self.best = sorted_best(torch.cat((a, squared)), torch.cat((b, i)), torch.cat((c, j)), self.k)

    def _report(self, pairs: int) -> None:
        self.done = min(self.done + pairs, self.pairs)
        if self.report is not None:
            self.report(self.done, self.pairs)

    def _direct(self, far: Tensor) -> None:
        """All pairs of the rows that the filter cannot hold."""
        everything = torch.arange(self.n, device=self.x.device)
        for count, row in enumerate(far.tolist()):
            others = everything[(everything != row) & ~torch.isin(everything, far[:count])]
            i, j = others.clamp_max(row), others.clamp_min(row)
            self._merge(distances(self.x, self.x, i, j), i, j)


def _search(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    n, d = x.shape
    pairs = n * (n - 1) // 2
    if d == 0 or k == 0:
        i, j = (rows.to(x.device) for rows in first_pairs(n, k))
        return torch.zeros(k, dtype=torch.float64, device=x.device), i, j
    if pairs <= max(_FEW_PAIRS, 2 * k):
        check_finite("closest_pairs", "x", x)
        i, j = torch.triu_indices(n, n, 1, device=x.device)
        return sorted_best(distances(x, x, i, j), i, j, k)
    return _Hunt(x, k).run()


def closest_pairs(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The operator gankern_triton::closest_pairs."""
    squared, i, j = _search(as_matrix(x), k)
    return squared.sqrt().to(distance_dtype(x)), i, j


def aot_specs() -> list[AotSpec]:
    """Everything that the search launches."""
    return triton_steps.aot_specs()
