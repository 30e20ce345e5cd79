"""Samples as rows of a matrix, (N, D), whatever their rank and memory layout: views wherever memory allows."""

from __future__ import annotations

import math

from torch import Tensor


def memory_order(x: Tensor) -> list[int]:
    """The axes of one sample, outermost in memory first; axes of size 1 keep their place."""
    if x.is_contiguous():
        return list(range(1, x.dim()))
    strides = x.stride()
    return sorted(range(1, x.dim()), key=lambda d: (-strides[d], d) if x.shape[d] > 1 else (-math.inf, d))


def to_rows(x: Tensor, order: list[int]) -> Tensor:
    """x as (N, D) with the axes of a sample in this order: a view of a dense tensor, else a copy."""
    if x.dim() == 1:
        return x[:, None]
    if order != list(range(1, x.dim())):
        x = x.permute(0, *order)
    return x.flatten(1) if x.dim() > 2 else x


def from_rows(rows: Tensor, like: Tensor, order: list[int]) -> Tensor:
    """The inverse of to_rows: a view of rows with like's shape, laid out in that order of axes."""
    if like.dim() == 1:
        return rows[:, 0]
    x = rows.unflatten(1, [like.shape[d] for d in order]) if like.dim() > 2 else rows
    if order == list(range(1, like.dim())):
        return x
    return x.permute(0, *[1 + order.index(d) for d in range(1, like.dim())])
