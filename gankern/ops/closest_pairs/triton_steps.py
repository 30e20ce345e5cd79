"""Launchers of the pair search's kernels (`triton_filter.py`), and what they declare to the resource gate."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gankern.ops._triton import NAMES, AotSpec, ceil_div, on_device_of
from gankern.ops.closest_pairs import bounds
from gankern.ops.closest_pairs.frame import DIRECTIONS, Frame
from gankern.ops.closest_pairs.triton_filter import _distances, _filter, _points, _project

#: Rows of a tile, on both sides, and coordinates of one step.
TILE = 128
STEP = 64
_ROWS, _WIDTH = 16, 128  # of `_points`
_PROJECTED = 32  # rows of `_project`
_PAIRS = 32


class Points(NamedTuple):
    """One side of the filter: `size` rows from number `first` on, padded to whole tiles.

    Attributes:
        data: float16 (rows, coordinates), both padded with zeros.
        half: h', float32; the largest float32 for rows that no filter holds, and for padding.
        size: rows.
        first: the number of the first.
    """

    data: Tensor
    half: Tensor
    size: int
    first: int

    @property
    def tiles(self) -> int:
        """Tiles of rows."""
        return self.data.shape[0] // TILE


def padded(x: Tensor, value: float) -> Tensor:
    """A vector over rows, filled up to whole tiles."""
    return torch.nn.functional.pad(x, (0, -len(x) % TILE), value=value)


def _frame_tensor(frame: Frame) -> Tensor:
    scale = torch.tensor([frame.scale], dtype=torch.float64, device=frame.centre.device)
    return torch.cat((scale, frame.centre))


def points(x: Tensor, begin: int, end: int, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [begin, end) as float16 points, padded, |point|^2, and |what the rounding took|^2."""
    n, steps = end - begin, ceil_div(x.shape[1], STEP)
    data = torch.empty(ceil_div(n, TILE) * TILE, steps * STEP, dtype=torch.float16, device=x.device)
    squares, rest = (torch.empty(n, dtype=torch.float64, device=x.device) for _ in range(2))
    with on_device_of(x):
        _points[(len(data) // _ROWS,)](
            x, _frame_tensor(frame), data, squares, rest, n, x.shape[1], begin, steps,
            largest=2 * bounds.TENSOR_LARGEST, smallest=bounds.SMALLEST,
            ROWS=_ROWS, WIDTH=_WIDTH, STEP=STEP, num_warps=4, num_stages=1,
        )  # fmt: skip
    return data, squares, rest


def project(x: Tensor, frame: Frame, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 features (N, m) of centred and scaled rows, for a basis (m, D), m at most DIRECTIONS, and |y|^2."""
    n, d = x.shape
    right = torch.nn.functional.pad(basis.T, (0, DIRECTIONS - len(basis))).contiguous()
    features = torch.empty(n, DIRECTIONS, dtype=torch.float32, device=x.device)
    norms = torch.empty(n, dtype=torch.float64, device=x.device)
    with on_device_of(x):
        _project[(ceil_div(n, _PROJECTED),)](
            x, _frame_tensor(frame), right, features, norms, n, d,
            ROWS=_PROJECTED, RUN=bounds.PROJECTED_RUN, COUNT=DIRECTIONS, num_warps=4, num_stages=1,
        )  # fmt: skip
    return features[:, : len(basis)], norms


def distances(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances of rows i of x and j of y, float64, as the reference defines them."""
    out = torch.empty(len(i), dtype=torch.float64, device=x.device)
    if len(i):
        with on_device_of(x):
            _distances[(ceil_div(len(i), _PAIRS),)](
                x, y, i.contiguous(), j.contiguous(), out, len(i), x.shape[1],
                PAIRS=_PAIRS, num_warps=4, num_stages=1, enable_fp_fusion=False,
            )  # fmt: skip
    return out


class Region(NamedTuple):
    """Tiles [row0, row1) of a against [column0, column1) of b; of a triangle, those on and above its diagonal."""

    row0: int
    row1: int
    column0: int
    column1: int
    upper: bool
    again: bool = False

    @property
    def divisible(self) -> bool:
        """Whether it is more than one tile."""
        return self.row1 - self.row0 > 1 or self.column1 - self.column0 > 1

    def pairs(self, a: Points, b: Points) -> int:
        """How many pairs of rows."""
        rows = min(self.row1 * TILE, a.size) - self.row0 * TILE
        columns = min(self.column1 * TILE, b.size) - self.column0 * TILE
        return rows * (rows - 1) // 2 if self.upper else rows * columns

    def parts(self) -> list[Region]:
        """The same pairs in two or three smaller regions; itself, if it is one tile."""
        row0, row1, column0, column1, upper, _ = self
        if not self.divisible:
            return [self]
        if upper:
            middle = (row0 + row1) // 2
            corner = Region(row0, middle, middle, row1, False)
            return [Region(row0, middle, row0, middle, True), corner, Region(middle, row1, middle, row1, True)]
        if row1 - row0 > column1 - column0:
            middle = (row0 + row1) // 2
            return [Region(row0, middle, column0, column1, False), Region(middle, row1, column0, column1, False)]
        middle = (column0 + column1) // 2
        return [Region(row0, row1, column0, middle, False), Region(row0, row1, middle, column1, False)]


class Survivors(NamedTuple):
    """Pairs that a filter kept; `whole` if these are all of them, else any `capacity` of them."""

    i: Tensor
    j: Tensor
    whole: bool


def survivors(
    a: Points, b: Points, region: Region, limit: Tensor, cut: Tensor, distinct: bool, capacity: int
) -> Survivors:
    """The pairs of a region that may matter; `limit` and `cut` (padded rows of a) as in `_filter`."""
    counter = torch.zeros(1, dtype=torch.int32, device=a.data.device)
    found = torch.empty(capacity, dtype=torch.int64, device=a.data.device)
    rows, columns = region.row1 - region.row0, region.column1 - region.column0
    programs = (rows + 1) * ceil_div(rows, 2) if region.upper else rows * columns
    steps = a.data.shape[1] // STEP
    with on_device_of(a.data):
        _filter[(programs,)](
            a.data, b.data, limit, b.half, cut, found, counter, steps, int(distinct), a.first, b.first,
            region.row0, rows, region.column0, columns, capacity, UPPER=region.upper, **_FILTER,
        )  # fmt: skip
    count = int(counter)
    found = found[:count]
    return Survivors(found >> 32, found & 0xFFFFFFFF, count <= capacity)


_TILING = {"TILE": TILE, "STEP": STEP, "RUN": bounds.TENSOR_RUN // STEP, "GROUP": 8}
_FILTER = {**_TILING, "num_warps": 16, "num_stages": 3}


def filter_spec(upper: bool) -> AotSpec:
    """The filter over a triangle or over a rectangle."""
    types = {"a": "*fp16", "b": "*fp16", "limit": "*fp32", "half": "*fp32", "counter": "*i32"}
    types |= dict.fromkeys(("cut", "found"), "*i64")
    constexprs = {**_TILING, "UPPER": upper}
    signature = {a: "constexpr" if a in constexprs else types.get(a, "i32") for a in _filter.arg_names}
    name = f"filter {'triangle' if upper else 'rectangle'}"
    return AotSpec(name, _filter, signature, constexprs, num_warps=16, num_stages=3)


def aot_specs() -> list[AotSpec]:
    """Every kernel that closest_pairs launches, for every dtype of the sample."""
    specs = [filter_spec(True), filter_spec(False)]
    doubles = dict.fromkeys(("frame", "squares", "rest", "norms", "out"), "*fp64")
    others = {"points": "*fp16", "basis": "*fp32", "features": "*fp32", "i": "*i64", "j": "*i64"}
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        "points": (_points, {"ROWS": _ROWS, "WIDTH": _WIDTH, "STEP": STEP}),
        "project": (_project, {"ROWS": _PROJECTED, "RUN": bounds.PROJECTED_RUN, "COUNT": DIRECTIONS}),
        "distances": (_distances, {"PAIRS": _PAIRS}),
    }
    made["points"][1].update(largest=2 * bounds.TENSOR_LARGEST, smallest=bounds.SMALLEST)
    for dtype, element in {**NAMES, torch.uint8: "u8"}.items():
        types = {**doubles, **others, "x": f"*{element}", "y": f"*{element}"}
        for name, (kernel, constexprs) in made.items():
            signature = {a: "constexpr" if a in constexprs else types.get(a, "i32") for a in kernel.arg_names}
            may_spill = dtype == torch.float64
            fusion = name != "distances"
            specs.append(
                AotSpec(f"{name} {element}", kernel, signature, constexprs, may_spill=may_spill, fusion=fusion)
            )
    return specs
