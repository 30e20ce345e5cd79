"""Schema and fake of nearest, and the step of the native search."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern import _libraries
from gankern.backend import FLOATING, checked, define
from gankern.ops.closest_pairs.rows import check_same_rows, check_sample, distance_dtype
from gankern.ops.nearest import native


def _check(x: Tensor, y: Tensor | None, k: int) -> None:
    check_sample("nearest", "x", x)
    if y is not None:
        check_sample("nearest", "y", y)
        check_same_rows(x, y)
    available = max(len(x) - 1, 0) if y is None else len(y)
    if not 0 <= k <= available:
        raise ValueError(f"nearest: k must be at most the {available} rows available, got {k}")


_library = torch.library.Library("gankern_native", "FRAGMENT")
if not _libraries.absent["native"]:
    _library.define(
        "nearest_scan(Tensor x, Tensor y, Tensor a, Tensor half_a, int first_a, Tensor b, Tensor half_b, int first_b, "
        "Tensor segments, float scale, float margin, bool distinct, Tensor bound, Tensor best_squared, Tensor best_j) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    )
    _library.impl("nearest", checked(native.nearest, _check), "CPU")


def _fake(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape, dtype=distance_dtype(x)), x.new_empty(shape, dtype=torch.int64)


OP = define(
    __package__ or "gankern.ops.nearest",
    ["nearest(Tensor x, Tensor? y, int k) -> (Tensor, Tensor)"],
    {"nearest": _fake},
    checks={"nearest": _check},
    dtypes=(*FLOATING, torch.uint8),
)
