"""What all backends share: rows of a sample, the order of results, and the check for finite values."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from gankern.ops import _checks


def spread_rows(n: int, count: int) -> Tensor:
    """At most `count` row numbers, spread evenly over the sample."""
    count = min(n, count)
    return torch.arange(count, dtype=torch.int64) * n // max(count, 1)


def first_pairs(n: int, k: int) -> tuple[Tensor, Tensor]:
    """The first k pairs i < j in lexicographic order."""
    rows, covered = 0, 0
    while covered < k:
        covered += n - 1 - rows
        rows += 1
    i, j = torch.triu_indices(rows, n, 1)
    return i[:k].clone(), j[:k].clone()


def sorted_best(squared: Tensor, i: Tensor, j: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k least by (squared distance, i, j), sorted."""
    if len(squared) > 4 * k + 1024:
        kept = (squared <= squared.kthvalue(k).values).nonzero()[:, 0]
        squared, i, j = squared[kept], i[kept], j[kept]
    order = torch.arange(len(squared), device=squared.device)
    for key in (j, i, squared):
        order = order[key[order].argsort(stable=True)]
    order = order[:k]
    return squared[order], i[order], j[order]


def check_finite(op: str, name: str, x: Tensor, first: int = 0) -> None:
    """Raises a ValueError naming the first row with a NaN or an infinity."""
    if not x.is_floating_point():
        return
    step = max(1, (1 << 24) // max(x.shape[1], 1))
    for begin in range(0, len(x), step):
        bad = ~x[begin : begin + step].isfinite().all(1)
        if bool(bad.any()):
            row = first + begin + int(bad.nonzero()[0, 0])
            raise ValueError(f"{op}: {name} must be finite, got NaN or Inf in row {row}")


def as_matrix(x: Tensor) -> Tensor:
    """(N, ...) as a contiguous (N, D)."""
    return x.reshape(len(x), x[0].numel() if len(x) else 0).contiguous()


def distance_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 input, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8)


def sample(op: str, name: str, x: object) -> Tensor:
    """x as a tensor (N, ...) outside any graph; an array is not copied."""
    if isinstance(x, np.ndarray):
        if x.dtype not in (np.float32, np.float64, np.float16, np.uint8):
            raise TypeError(f"{op}: {name} must be float32, float64, float16 or uint8, got a NumPy array of {x.dtype}")
        if not x.flags.writeable:
            with warnings.catch_warnings():  # torch warns that it could write; nothing here does
                warnings.simplefilter("ignore", UserWarning)
                x = torch.from_numpy(x)
        else:
            x = torch.from_numpy(x)
    rows = _checks.tensor(op, name, x).detach()
    check_sample(op, name, rows)
    return rows


def check_sample(op: str, name: str, x: Tensor) -> None:
    """Raises unless x is (N, ...) of a supported dtype."""
    if x.dtype not in _DTYPES:
        raise TypeError(f"{op}: {name} must be float32, float64, bfloat16, float16 or uint8, got {x.dtype}")
    if x.dim() == 0:
        raise ValueError(f"{op}: {name} must have shape (N, ...), got a scalar")


def check_same_rows(x: Tensor, y: Tensor) -> None:
    """Raises unless the rows of y may be neighbours of those of x."""
    if y.dtype != x.dtype:
        raise TypeError(f"nearest: y must be {x.dtype} as x is, got {y.dtype}")
    if y.device != x.device:
        raise ValueError(f"nearest: y must be on {x.device} as x is, got {y.device}")
    if y.shape[1:].numel() != x.shape[1:].numel():
        raise ValueError(f"nearest: y must have {x.shape[1:].numel()} elements per row as x has, got {tuple(y.shape)}")
