"""Nearest rows by direct differences in float64: the meaning, and the oracle of every backend.

Distances and their ranking are those of `gankern.ops.closest_pairs.reference`; ties go to the lower row of y.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankern.ops.closest_pairs.reference import LANES, squared_distances
from gankern.ops.closest_pairs.rows import as_matrix, check_finite, distance_dtype

_BLOCK = 1 << 22


def nearest(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest rows of y for each row of x, or of x without the row itself: distance and index, (N, k)."""
    rows = as_matrix(x)
    others = rows if y is None else as_matrix(y)
    check_finite("nearest", "x", rows)
    if y is not None:
        check_finite("nearest", "y", others)
    squared = torch.empty(len(rows), k, dtype=torch.float64, device=x.device)
    index = torch.empty(len(rows), k, dtype=torch.int64, device=x.device)
    block = max(1, _BLOCK // (LANES * max(len(others), 1)))
    for begin in range(0, len(rows), block):
        found = squared_distances(rows[begin : begin + block, None], others[None])
        if y is None:
            own = torch.arange(len(found), device=x.device)
            found[own, own + begin] = torch.nan  # sorted behind infinity
        order = found.sort(dim=1, stable=True).indices[:, :k]
        index[begin : begin + block] = order
        squared[begin : begin + block] = found.gather(1, order)
    return squared.sqrt().to(distance_dtype(x)), index
