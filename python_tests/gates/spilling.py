"""A kernel that cannot but spill: 384 values per thread live across the turns of a loop."""

from __future__ import annotations

import triton
import triton.language as tl

from gankern.ops._triton import AotSpec


@triton.jit
def spilling(x, out, turns, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    a = tl.load(x + at)
    b = tl.load(x + SIZE + at)
    c = tl.load(x + 2 * SIZE + at)
    for _ in range(turns):
        a = a * b + c
        b = b * c + a
        c = c * a + b
    tl.store(out + at, a + b + c)


SPEC = AotSpec(
    "spilling",
    spilling,
    {"x": "*fp32", "out": "*fp32", "turns": "i32", "SIZE": "constexpr"},
    {"SIZE": 4096},
    num_warps=1,
)
