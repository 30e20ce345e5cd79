"""What the Triton kernels on samples as rows, (N, D), share.

A row is cut into parts of a fixed size, one program each, so that few long rows fill a GPU too; partial sums of a row
are added in order by whoever needs them. Nothing depends on how programs are scheduled: results repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gankern.ops._triton import accumulator, ceil_div

#: Elements of a row that one program handles, in steps of BLOCK.
PART = 8192
BLOCK = tl.constexpr(1024)

OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 1}


def parts_of(d: int) -> int:
    """Programs per row, at least one."""
    return max(ceil_div(d, PART), 1)


def partial_sums(x: Tensor) -> Tensor:
    """Room for one partial sum per program."""
    return x.new_empty((x.shape[0], parts_of(x.shape[1])), dtype=accumulator(x.dtype))


@triton.jit
def place(d, parts):  # type: ignore[no-untyped-def]
    """Row, part and the part's first and last element, as int64."""
    item = tl.program_id(0).to(tl.int64)
    n, p = item // parts, item % parts
    first = p * ((d + parts - 1) // parts)
    return n, p, first, tl.minimum(first + (d + parts - 1) // parts, d.to(tl.int64))


@triton.jit
def load(p, at, stride, mask, like):  # type: ignore[no-untyped-def]
    """Elements `at` of a row, in the dtype that `like` points to; 0 beyond the part."""
    return tl.load(p + at * stride, mask, other=0.0).to(like.dtype.element_ty)


@triton.jit
def sum_parts(partial, n, parts):  # type: ignore[no-untyped-def]
    """The sum of a row's partial sums, in order."""
    total = tl.load(partial + n * parts)
    for p in range(1, parts):
        total += tl.load(partial + n * parts + p)
    return total
