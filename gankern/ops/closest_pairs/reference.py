"""Closest pairs by direct differences in float64: the meaning, and the oracle of every backend.

The squared distance of rows x and y is sum_c (x_c - y_c)^2 of the input values, in float64, in one order: lane
c mod 16 adds its terms in order of c, each difference, square and sum rounded by itself; then lanes are added in halves
(l and l + 8, then l + 4, l + 2, l + 1). Pairs are ranked by that number, then by (i, j).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankern.ops.closest_pairs import progress
from gankern.ops.closest_pairs.rows import as_matrix, check_finite, distance_dtype, sorted_best

LANES = 16
_BLOCK = 1 << 22


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Between the rows of x and y, (..., D), broadcast over the leading dimensions: float64, in the order above."""
    shape = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    lanes = torch.zeros(*shape, LANES, dtype=torch.float64, device=x.device)
    for begin in range(0, x.shape[-1], LANES):
        difference = x[..., begin : begin + LANES].double() - y[..., begin : begin + LANES].double()
        lanes[..., : difference.shape[-1]] += difference * difference
    half = LANES // 2
    while half:
        lanes = lanes[..., :half] + lanes[..., half:]
        half //= 2
    return lanes[..., 0]


def closest_pairs(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k closest pairs of the rows of x, (N, ...): distance, i and j."""
    rows = as_matrix(x)
    check_finite("closest_pairs", "x", rows)
    n, report = len(rows), progress.current()
    block = max(1, _BLOCK // (LANES * max(n, 1)))
    squared = torch.empty(0, dtype=torch.float64, device=x.device)
    i = j = torch.empty(0, dtype=torch.int64, device=x.device)
    for begin in range(0, n, block):
        some = torch.arange(begin, min(begin + block, n), device=x.device)
        found = squared_distances(rows[some][:, None], rows[begin:][None])
        others = torch.arange(begin, n, device=x.device)
        row, column = (some[:, None] < others).nonzero(as_tuple=True)
        squared = torch.cat((squared, found[row, column]))
        i, j = torch.cat((i, some[row])), torch.cat((j, others[column]))
        squared, i, j = sorted_best(squared, i, j, k)
        if report is not None:
            done = min(begin + block, n)
            report(done * (2 * n - done - 1) // 2, n * (n - 1) // 2)
    return squared.sqrt().to(distance_dtype(x)), i, j
