"""Triton kernels of the pair search: points, projection, the filter on tiles of pairs, and exact distances.

The filter is a float16 matrix product over the tiles of a region, with the test in its epilogue: what the derived
slack (`bounds.py`) cannot rule out goes to a list of fixed capacity, in no particular order. A list that ran over is
useless, and the rest of its launch returns at once; the search then tries less at a time. Everything that decides a
result is `_distances`, in the documented order of float64 sums.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Sizes are never specialised on: one binary per configuration, as in the gate.
_SIZES = [
    "n",
    "d",
    "begin",
    "steps",
    "distinct",
    "first_a",
    "first_b",
    "row0",
    "rows",
    "column0",
    "columns",
    "capacity",
]


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=["x"])
def _points(
    x, frame, points, squares, rest, n, d, begin, steps, largest: tl.constexpr, smallest: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    # Rows begin + r, centred and scaled, in float16; |point|^2 and |what rounding took|^2 in float64.
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, WIDTH)
    scale = tl.load(frame)
    stride = steps * STEP
    held = tl.zeros((ROWS, WIDTH), tl.float64)
    lost = tl.zeros((ROWS, WIDTH), tl.float64)
    for c0 in range(0, stride, WIDTH):
        c = c0 + lane
        live = (r < n)[:, None] & (c < d)[None, :]
        y = tl.load(x + (begin + r)[:, None] * d + c[None, :], live, other=0).to(tl.float64)
        y = tl.where(live, (y - tl.load(frame + 1 + c, c < d, other=0.0)[None, :]) * scale, 0.0)
        size = tl.abs(y)
        p = tl.where((size >= smallest) & (size <= largest), y, 0.0).to(tl.float16)
        tl.store(points + r[:, None] * stride + c[None, :], p, (c < stride)[None, :] & (r >= 0)[:, None])
        p = p.to(tl.float64)
        held += p * p
        lost += (y - p) * (y - p)
    tl.store(squares + r, tl.sum(held, 1), r < n)
    tl.store(rest + r, tl.sum(lost, 1), r < n)


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=["x"])
def _project(x, frame, basis, features, norms, n, d, ROWS: tl.constexpr, RUN: tl.constexpr, COUNT: tl.constexpr):
    # <y, q> for the COUNT columns q of the basis, (d, COUNT), and |y|^2 in float64; runs of products are float32.
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, RUN)
    q = tl.arange(0, COUNT)
    scale = tl.load(frame)
    total = tl.zeros((ROWS, COUNT), tl.float64)
    square = tl.zeros((ROWS,), tl.float64)
    for c0 in range(0, d, RUN):
        c = c0 + lane
        live = (r < n)[:, None] & (c < d)[None, :]
        y = tl.load(x + r[:, None] * d + c[None, :], live, other=0).to(tl.float64)
        y = tl.where(live, (y - tl.load(frame + 1 + c, c < d, other=0.0)[None, :]) * scale, 0.0)
        square += tl.sum(y * y, 1)
        right = tl.load(basis + c.to(tl.int64)[:, None] * COUNT + q[None, :], (c < d)[:, None], other=0.0)
        total += tl.dot(y.to(tl.float32), right, input_precision="ieee").to(tl.float64)
    tl.store(features + r[:, None] * COUNT + q[None, :], total.to(tl.float32), (r < n)[:, None])
    tl.store(norms + r, square, r < n)


@triton.jit
def _place(rows, columns, UPPER: tl.constexpr, GROUP: tl.constexpr):
    # This program's tile of the region, neighbours in groups of GROUP rows so that they share what is cached. A
    # triangle is folded: its line l holds row l and row rows - 1 - l, rows + 1 tiles together.
    pid = tl.program_id(0)
    wide = columns
    lines = rows
    if UPPER:
        wide = rows + 1
        lines = tl.cdiv(rows, 2)
    first = pid // (GROUP * wide) * GROUP
    size = tl.minimum(lines - first, GROUP)
    line = first + pid % (GROUP * wide) % size
    place = pid % (GROUP * wide) // size
    row = line
    column = place
    live = line >= 0
    if UPPER:
        second = place >= rows - line
        live = (second == 0) | (line != rows - 1 - line)
        row = tl.where(second, rows - 1 - line, line)
        column = tl.where(second, row + place - (rows - line), line + place)
    return row, column, live


@triton.jit(do_not_specialize=_SIZES)
def _filter(
    a, b, limit, half, cut, found, counter, steps, distinct, first_a, first_b,
    row0, rows, column0, columns, capacity,
    UPPER: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr, RUN: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # Appends the pairs of rows of a and b with <a, b> - limit - half >= 0 and a number in b below the row's cut.
    row, column, live = _place(rows, columns, UPPER, GROUP)
    live = live & (tl.load(counter) <= capacity)
    first_row = (row0 + row).to(tl.int64) * TILE
    first_column = (column0 + column).to(tl.int64) * TILE
    lane = tl.arange(0, TILE)
    k = tl.arange(0, STEP)
    stride = steps * STEP
    # Scalars walk, and offsets within a tile are 32 bits: pointers held by every thread would fill the registers.
    left = a + first_row * stride
    right = b + first_column * stride
    left_offsets = lane[:, None] * stride + k[None, :]
    right_offsets = lane[None, :] * stride + k[:, None]
    total = tl.zeros((TILE, TILE), tl.float32)
    for begin in range(0, tl.where(live, steps, 0), RUN):
        run = tl.zeros((TILE, TILE), tl.float32)
        for _ in range(begin, tl.minimum(begin + RUN, steps)):
            run = tl.dot(tl.load(left + left_offsets), tl.load(right + right_offsets), run, input_precision="ieee")
            left += STEP
            right += STEP
        total += run
    r = first_row + lane
    c = first_column + lane
    value = total - tl.load(limit + r)[:, None] - tl.load(half + c)[None, :]
    i = first_a + r
    j = first_b + c
    keep = (value >= 0) & live & (j[None, :] < tl.load(cut + r)[:, None])
    keep = keep & (i[:, None] < j[None, :]) if UPPER else keep & ((i[:, None] != j[None, :]) | (distinct == 0))
    if tl.max(tl.max(keep.to(tl.int32), 1), 0) > 0:
        # Past capacity the counter only grows by what is in flight: far from 2^31.
        one = keep.to(tl.int32)
        at = tl.atomic_add(counter + tl.zeros((TILE, TILE), tl.int32), one, mask=keep, sem="relaxed")
        tl.store(found + at, (i << 32)[:, None] + j[None, :], keep & (at < capacity))


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=["x", "y", "i", "j"])
def _distances(x, y, i, j, out, n, d, PAIRS: tl.constexpr):
    # sum_c (x_ic - y_jc)^2 as `reference` defines it: 16 lanes in order of c, then halves. Launched without fusion.
    p = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    left = tl.load(i + p, p < n, other=0)[:, None] * d
    right = tl.load(j + p, p < n, other=0)[:, None] * d
    lane = tl.arange(0, 16)
    sums = tl.zeros((PAIRS, 16), tl.float64)
    for c0 in range(0, d, 16):
        c = (c0 + lane)[None, :]
        live = (p < n)[:, None] & (c < d)
        u = tl.load(x + left + c, live, other=0).to(tl.float64)
        v = tl.load(y + right + c, live, other=0).to(tl.float64)
        sums += (u - v) * (u - v)
    sums = tl.sum(tl.reshape(sums, (PAIRS, 2, 8)), 1)
    sums = tl.sum(tl.reshape(sums, (PAIRS, 2, 4)), 1)
    sums = tl.sum(tl.reshape(sums, (PAIRS, 2, 2)), 1)
    tl.store(out + p, tl.sum(sums, 1), p < n)
