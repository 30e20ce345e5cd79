"""The closest pairs of a sample, exactly: what the birthday-paradox test looks at."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from gankern.backend import operator, pick
from gankern.ops import _checks
from gankern.ops.closest_pairs import op as _op
from gankern.ops.closest_pairs.progress import Progress, reporting
from gankern.ops.closest_pairs.rows import sample


class ClosestPairs(NamedTuple):
    """Pairs i < j of rows, nearest first.

    Attributes:
        distance: Euclidean distances, float32 (float64 for float64 input).
        i: the lower row numbers, int64.
        j: the higher row numbers, int64.
    """

    distance: Tensor
    i: Tensor
    j: Tensor


def closest_pairs(x: Any, k: int = 20, progress: Progress | None = None) -> ClosestPairs:
    """The k pairs of rows of a sample with the smallest Euclidean distances, exactly, in bounded memory.

    The search behind the birthday-paradox test of Arora and Zhang (2017): near-duplicates among N samples bound the
    size of the support. No N x N matrix is made; a float32 filter with derived error bounds rules pairs out, and all
    others are measured by direct differences in float64. Pairs are ranked by the float64 squared distance of the
    input values, summed in one order (see `closest_pairs.reference`), then by (i, j): results do not depend on
    backend, instruction set or threads. Not differentiable.

    Args:
        x: (N, ...), float32, float64, bfloat16, float16 or uint8: a tensor, a NumPy array or a memory map, which is
            read in place.
        k: how many pairs; all N (N - 1) / 2 where there are fewer.
        progress: called now and then with (pairs done, all pairs).

    Returns:
        ClosestPairs(distance, i, j), each of length min(k, N (N - 1) / 2), on x's device (the CPU for NumPy input).

    Raises:
        TypeError: x is no dense tensor or array of a supported dtype, or k is no integer.
        ValueError: x has no first dimension, k is below 1, or a row holds NaN or Inf (the first one is named).
        RuntimeError: a forced backend cannot run it (see `gankern.backend`).
    """
    rows = sample("closest_pairs", "x", x)
    wanted = _checks.positive("closest_pairs", "k", k)
    n = rows.shape[0]
    call = operator(pick(_op.OP.name, rows), "closest_pairs")
    with reporting(progress):
        return ClosestPairs(*call(rows, min(wanted, n * (n - 1) // 2)))
