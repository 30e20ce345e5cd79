"""Schema and fake of closest_pairs, and the steps of the native search."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern import _libraries
from gankern.backend import FLOATING, checked, define
from gankern.ops.closest_pairs import native
from gankern.ops.closest_pairs.rows import check_sample, distance_dtype

_STEPS = (
    "closest_pairs_distances(Tensor x, Tensor y, Tensor i, Tensor j) -> Tensor",
    "closest_pairs_points(Tensor x, int begin, int end, Tensor centre, float scale) -> (Tensor, Tensor)",
    "closest_pairs_project(Tensor x, Tensor centre, float scale, Tensor basis) -> (Tensor, Tensor)",
    "closest_pairs_pack(Tensor features) -> Tensor",
    "closest_pairs_scan(Tensor x, Tensor a, Tensor half_a, Tensor tail_a, int first_a, Tensor b, Tensor half_b, "
    "Tensor tail_b, int first_b, Tensor segments, int begin, int end, float scale, float margin, float seed, int k, "
    "Tensor best_squared, Tensor best_i, Tensor best_j) -> (Tensor, Tensor, Tensor, Tensor)",
)


def _check(x: Tensor, k: int) -> None:
    check_sample("closest_pairs", "x", x)
    most = len(x) * (len(x) - 1) // 2
    if not 0 <= k <= most:
        raise ValueError(f"closest_pairs: k must be between 0 and the {most} pairs of x, got {k}")


# The steps exist where the native library does; what ties them together is Python, registered beside them.
_library = torch.library.Library("gankern_native", "FRAGMENT")
if not _libraries.absent["native"]:
    for _schema in _STEPS:
        _library.define(_schema)
    _library.impl("closest_pairs", checked(native.closest_pairs, _check), "CPU")


def _fake(x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.new_empty((k,), dtype=torch.int64)
    return x.new_empty((k,), dtype=distance_dtype(x)), rows, torch.empty_like(rows)


OP = define(
    __package__ or "gankern.ops.closest_pairs",
    ["closest_pairs(Tensor x, int k) -> (Tensor, Tensor, Tensor)"],
    {"closest_pairs": _fake},
    checks={"closest_pairs": _check},
    dtypes=(*FLOATING, torch.uint8),
)
