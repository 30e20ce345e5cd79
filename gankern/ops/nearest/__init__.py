"""Exact nearest neighbours: memorisation, precision and recall, and the birthday test are made of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gankern.backend import operator, pick
from gankern.ops import _checks
from gankern.ops.closest_pairs.rows import check_same_rows, sample
from gankern.ops.nearest import op as _op


def nearest(x: Any, y: Any = None, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest rows of y for each row of x, exactly; or of x itself, without the row.

    Distances, their ranking and the guarantees are those of `closest_pairs`: the float64 distance of the input values,
    ties by the lower index, the same for every backend, instruction set and number of threads, in bounded memory.
    Not differentiable.

    Args:
        x: (N, ...), float32, float64, bfloat16, float16 or uint8: a tensor, a NumPy array or a memory map.
        y: (M, ...), of x's dtype and device and of as many elements per row; None for x without the row itself.
        k: how many neighbours.

    Returns:
        distance, (N, k), float32 (float64 for float64 input), ascending, and index, (N, k), int64; on x's device.

    Raises:
        TypeError: x or y is no dense tensor or array of a supported dtype, they differ in dtype, or k is no integer.
        ValueError: shapes or devices do not fit, k is below 1 or exceeds the rows available, or a row holds NaN or
            Inf (the first one is named).
        RuntimeError: a forced backend cannot run it (see `gankern.backend`).
    """
    rows = sample("nearest", "x", x)
    others = None if y is None else sample("nearest", "y", y)
    wanted = _checks.positive("nearest", "k", k)
    if others is not None:
        check_same_rows(rows, others)
    available = max(rows.shape[0] - 1, 0) if others is None else others.shape[0]
    if wanted > available:
        raise ValueError(f"nearest: k must be at most the {available} rows available, got {k}")
    distance, index = operator(pick(_op.OP.name, rows), "nearest")(rows, others, wanted)
    return distance, index
