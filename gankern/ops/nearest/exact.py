"""What the searches of all devices share: rows ranked by exact distances, and the bounds to start from."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gankern.ops.closest_pairs.frame import Frame, centred
from gankern.ops.closest_pairs.rows import check_finite, spread_rows

FEW_PAIRS = 4096
NO_ROW = torch.iinfo(torch.int64).max

#: Squared distances of rows i of x and j of y, as the reference defines them.
Distances = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def between(distances: Distances, x: Tensor, y: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Squared distances between every one of some rows of x and every one of some rows of y."""
    i, j = rows.repeat_interleave(len(others)), others.repeat(len(rows))
    return distances(x, y, i, j).view(len(rows), len(others))


def least(squared: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k least of each row by (squared distance, index); NaN is last."""
    order = index.sort(dim=1, stable=True).indices
    squared, index = squared.gather(1, order), index.gather(1, order)
    order = squared.sort(dim=1, stable=True).indices[:, :k]
    return squared.gather(1, order), index.gather(1, order)


def starting_bounds(
    distances: Distances, x: Tensor, begin: int, end: int, y: Tensor, view: Frame, k: int, distinct: bool, count: int
) -> Tensor:
    """For rows [begin, end) of x a squared distance that k rows of y do not exceed: from `count` or more rows of y."""
    sample = spread_rows(len(y), max(count, 4 * k)).to(x.device)
    right = centred(y, sample, view)
    half = 0.5 * right.square().sum(1)
    bound = torch.empty(end - begin, dtype=torch.float64, device=x.device)
    for first in range(begin, end, 4096):
        rows = torch.arange(first, min(first + 4096, end), device=x.device)
        value = (centred(x, rows, view) @ right.T).sub_(half)
        if distinct:
            value.masked_fill_(rows[:, None] == sample, -torch.inf)
        chosen = sample[value.nan_to_num_(-torch.inf).topk(k).indices]
        i = rows[:, None].expand_as(chosen).reshape(-1)
        squared = distances(x, y, i, chosen.reshape(-1)).view(-1, k)
        if distinct:
            squared[rows[:, None] == chosen] = math.inf
        bound[first - begin : first - begin + len(rows)] = squared.amax(1)
    return bound


def with_far_columns(
    distances: Distances,
    x: Tensor,
    begin: int,
    y: Tensor,
    far: Tensor,
    squared: Tensor,
    index: Tensor,
    distinct: bool,
) -> tuple[Tensor, Tensor]:
    """The best of rows begin, begin + 1, ... of x, with some rows of y that no filter held."""
    rows = torch.arange(begin, begin + len(squared), device=x.device)
    for column in far.split(64) if far.numel() else ():
        more = between(distances, x, y, rows, column)
        if distinct:
            more[rows[:, None] == column] = torch.nan
        numbers = torch.where(more.isnan(), NO_ROW, column.expand_as(more))
        squared, index = least(torch.cat((squared, more), 1), torch.cat((index, numbers), 1), squared.shape[1])
    return squared, index


def direct_rows(
    distances: Distances, x: Tensor, y: Tensor, rows: Tensor, k: int, distinct: bool
) -> tuple[Tensor, Tensor]:
    """The best of some rows of x, by their distances from all rows of y."""
    everything = torch.arange(len(y), device=x.device)
    squared = between(distances, x, y, rows, everything)
    if distinct:
        squared[rows[:, None] == everything] = torch.nan
    return least(squared, everything.expand_as(squared), k)


def direct(distances: Distances, x: Tensor, y: Tensor, k: int, distinct: bool) -> tuple[Tensor, Tensor]:
    """The whole search by exact distances; raises for NaN and Inf."""
    check_finite("nearest", "x", x)
    if not distinct:
        check_finite("nearest", "y", y)
    block = max(1, (1 << 22) // max(len(y), 1))
    squared = torch.empty(len(x), k, dtype=torch.float64, device=x.device)
    index = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for begin in range(0, len(x), block) if k else ():
        rows = torch.arange(begin, min(begin + block, len(x)), device=x.device)
        squared[rows], index[rows] = direct_rows(distances, x, y, rows, k, distinct)
    return squared, index
