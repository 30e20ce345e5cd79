"""Schema and fake of nearest, and the step of the native search."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern import _libraries
from gankern.backend import FLOATING, define
from gankern.ops.closest_pairs.rows import distance_dtype
from gankern.ops.nearest import native

_library = torch.library.Library("gankern_native", "FRAGMENT")
if not _libraries.absent["native"]:
    _library.define(
        "nearest_scan(Tensor x, Tensor y, Tensor a, Tensor half_a, int first_a, Tensor b, Tensor half_b, int first_b, "
        "Tensor segments, float scale, float margin, bool distinct, Tensor bound, Tensor best_squared, Tensor best_j) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    )
    _library.impl("nearest", native.nearest, "CPU")


def _fake(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape, dtype=distance_dtype(x)), x.new_empty(shape, dtype=torch.int64)


OP = define(
    __package__ or "gankern.ops.nearest",
    ["nearest(Tensor x, Tensor? y, int k) -> (Tensor, Tensor)"],
    {"nearest": _fake},
    dtypes=(*FLOATING, torch.uint8),
)
