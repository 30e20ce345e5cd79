"""Triton kernels of minibatch_l1: every program owns rows of one kernel b and walks over all other rows.

No atomics and a fixed order of sums, so results repeat bit for bit. Each pair is computed from both of its rows: on
a GPU the symmetric half would cost partial buffers and a second pass, and one launch dominates below N of about 512.

Rows of M are B C apart, so 32 neighbouring rows would be 32 cache lines. One small kernel therefore first packs all
inputs, whatever their strides and dtype, to (B, tiles of 32 rows, fields, 32 rows) in the accumulator's dtype, padded
with zeros: a warp reads 32 rows j of one field in one line, and all fields of a tile lie at constant offsets from one
address. Fields are G (from the first order on), the channels of M, then those of V (second order).

Lanes are 32 rows j; a thread holds I / num_warps rows i in registers, and meets each loaded value with all of them.
Sums stay per lane until the end. Pairs (i, i) and rows beyond N exist only in the tile on the diagonal and in the
last one: those two are walked separately, so that all other pairs pay nothing for them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankern.ops._triton import NAMES, AotSpec, accumulator, ceil_div, on_device_of
from gankern.ops.minibatch_l1.triton_pairs import (
    CHUNK,
    TILE,
    distance,
    dot_sign,
    exp_negative,
    far_distance_and_dot,
    far_distances,
    load_fields,
    others,
    sign,
)

# Kernel dimensions up to NEAR are unrolled and held in registers. Beyond, distances are summed over chunks of CHUNK
# channels, and derivatives are split over programs by chunk.
NEAR = 32
# Tiles of j that one walk of the far forward takes at once, to use each loaded row i four times.
FAR_SPAN = 4

# Sizes, strides and the alignment of the caller's tensors are never specialised on: one binary per configuration, as in
# the gate (and one with wider integers, from strides of 2^31 on).
_SIZES = ["n", "B", "C", "channels", "step", "row_tiles", "groups", "bf", "count", "include_self"]
_SIZES += ["m_n", "m_b", "m_c", "g_n", "g_b", "v_n", "v_b", "v_c"]


@triton.jit
def _place(n, ROWS: tl.constexpr, SPAN: tl.constexpr):
    # This program's b and first row; then how its walk over tiles of SPAN * TILE rows splits: the tile on the
    # diagonal, the number of whole tiles beside it, and the number of tiles that need `others`.
    pid = tl.program_id(0)
    row_tiles = tl.cdiv(n, ROWS)
    b = (pid // row_tiles).to(tl.int64)
    i0 = (pid % row_tiles) * ROWS
    diagonal = i0 // (SPAN * TILE)
    whole = n // (SPAN * TILE)
    last = tl.cdiv(n, SPAN * TILE) - 1
    masked = 1 + ((whole <= last) & (diagonal != last)).to(tl.int32)
    return b, i0, diagonal, whole - (diagonal < whole).to(tl.int32), last, masked


@triton.jit
def _row_pointers(p, i0, step, ROWS: tl.constexpr):
    return p + (i0 // TILE).to(tl.int64) * step + (i0 % TILE + tl.arange(0, ROWS))[:, None]


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=["m", "g", "v"])
def _pack(
    m, g, v, packed, n, row_tiles, bf, count, channels, C,
    m_n, m_b, m_c, g_n, g_b, v_n, v_b, v_c, ORDER: tl.constexpr,
):  # fmt: skip
    # A tile of 32 rows by 32 (b, field): read along the fields, written along the rows.
    columns = tl.cdiv(bf, TILE)
    row_tile = (tl.program_id(0) // columns).to(tl.int64)
    lane = tl.arange(0, TILE)
    i = (row_tile * TILE + lane)[:, None]
    k = (tl.program_id(0) % columns).to(tl.int64) * TILE + lane[None, :]
    b, field = k // count, k % count
    live = (i < n) & (k < bf)
    c = field
    if ORDER > 0:
        c = field - 1
    x = _converted(m + i * m_n + b * m_b + c * m_c, live & (c >= 0) & (c < C), packed)
    if ORDER > 0:
        x += _converted(g + i * g_n + b * g_b, live & (field == 0), packed)
    if ORDER > 1:
        c = c - channels
        x += _converted(v + i * v_n + b * v_b + c * v_c, live & (c >= 0) & (c < C), packed)
    to = ((b * row_tiles + row_tile) * count + field) * TILE + lane[:, None]
    tl.store(packed + to, x, (i >= 0) & (k < bf))


@triton.jit
def _converted(p, mask, like):
    return tl.load(p, mask, other=0.0).to(like.dtype.element_ty)


@triton.jit
def _kernels(mi, pi, pj, zero, channels, step, HELD: tl.constexpr, FAR: tl.constexpr, SPAN: tl.constexpr):
    d = far_distances(zero, pi, pj, channels, step, SPAN) if FAR else (distance(mi, load_fields(pj, HELD), HELD),)
    k = ()
    for u in tl.static_range(SPAN):
        k = k + (exp_negative(d[u]),)
    return k


@triton.jit(do_not_specialize=_SIZES)
def _forward(
    packed, out, n, B, channels, step, row_tiles, include_self,
    ROWS: tl.constexpr, HELD: tl.constexpr, FAR: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    b, i0, diagonal, whole, last, masked = _place(n, ROWS, SPAN)
    p = packed + b * row_tiles * step
    pi = _row_pointers(p, i0, step, ROWS)
    lane = tl.arange(0, TILE)[None, :]
    i = i0 + tl.arange(0, ROWS)[:, None]
    mi = () if FAR else load_fields(pi, HELD)
    zero = tl.zeros((ROWS, TILE), packed.dtype.element_ty)
    o = zero
    pj = p + lane + (diagonal == 0).to(tl.int32) * (SPAN * step)
    for t in range(whole):
        k = _kernels(mi, pi, pj, zero, channels, step, HELD, FAR, SPAN)
        for u in tl.static_range(SPAN):
            o += k[u]
        pj += tl.where(t + 1 == diagonal, 2 * SPAN * step, SPAN * step)
    for t in range(masked):
        tile = tl.where(t == 0, diagonal, last)
        pj = p + tile.to(tl.int64) * (SPAN * step) + lane
        k = _kernels(mi, pi, pj, zero, channels, step, HELD, FAR, SPAN)
        for u in tl.static_range(SPAN):
            o += others(k[u], i, (tile * SPAN + u) * TILE + lane, n)
    row = i0 + tl.arange(0, ROWS)
    total = tl.sum(o, 1) + include_self
    tl.store(out + row.to(tl.int64) * B + b, total.to(out.dtype.element_ty), row < n)


@triton.jit
def _derivative_tile(
    o, sums, mi, vi, gi, pi, pj, i, j, n, channels, first,
    SECOND: tl.constexpr, HELD: tl.constexpr, FAR: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    mj = load_fields(pj + (1 + first) * TILE, HELD)
    if FAR:
        if SECOND:
            d, q = far_distance_and_dot(tl.zeros_like(o), pi + TILE, pj + TILE, channels)
        else:
            d = far_distances(tl.zeros_like(o), pi + TILE, pj + TILE, channels, 0, 1)[0]
    else:
        d = distance(mi, mj, HELD)
        if SECOND:
            q = dot_sign(mi, mj, vi, load_fields(pj + (1 + HELD) * TILE, HELD), HELD)
    k = exp_negative(d)
    if SECOND:
        k = k * q
        o -= others(k, i, j, n) if EDGE else k
    w = (gi + tl.load(pj)) * k
    if EDGE:
        w = others(w, i, j, n)
    more = ()
    for c in tl.static_range(HELD):
        more = more + (sums[c] + w * sign(mi[c] - mj[c]),)
    return o, more


@triton.jit(do_not_specialize=_SIZES)
def _derivative(
    packed, dg, dm, n, B, channels, step, row_tiles, C, groups,
    SECOND: tl.constexpr, ROWS: tl.constexpr, HELD: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    # Of `groups` programs with the same rows, each owns HELD channels of dM, and the first owns dG.
    b, i0, diagonal, whole, last, masked = _place(n, ROWS, 1)
    first = (b % groups).to(tl.int32) * HELD
    b = b // groups
    p = packed + b * row_tiles * step
    pi = _row_pointers(p, i0, step, ROWS)
    lane = tl.arange(0, TILE)[None, :]
    row = i0 + tl.arange(0, ROWS)
    gi = tl.load(pi)
    mi = load_fields(pi + (1 + first) * TILE, HELD)
    vi = load_fields(pi + (1 + HELD) * TILE, HELD) if SECOND and not FAR else ()
    o = tl.zeros((ROWS, TILE), packed.dtype.element_ty)
    sums = ()
    for _ in tl.static_range(HELD):
        sums = sums + (o,)
    pj = p + lane + (diagonal == 0).to(tl.int32) * step
    for t in range(whole):
        o, sums = _derivative_tile(
            o, sums, mi, vi, gi, pi, pj, row[:, None], lane, n, channels, first, SECOND, HELD, FAR, False
        )
        pj += tl.where(t + 1 == diagonal, 2 * step, step)
    for t in range(masked):
        tile = tl.where(t == 0, diagonal, last)
        pj = p + tile.to(tl.int64) * step + lane
        o, sums = _derivative_tile(
            o, sums, mi, vi, gi, pi, pj, row[:, None], tile * TILE + lane, n, channels, first, SECOND, HELD, FAR, True
        )
    to = row.to(tl.int64) * B + b
    if SECOND:
        tl.store(dg + to, tl.sum(o, 1).to(dg.dtype.element_ty), (row < n) & (first == 0))
    for c in tl.static_range(HELD):
        total = tl.sum(sums[c], 1) if SECOND else -tl.sum(sums[c], 1)
        tl.store(dm + to * C + first + c, total.to(dm.dtype.element_ty), (row < n) & (first + c < C))


def _tiling(order: int, n: int, b: int, c: int, dtype: torch.dtype) -> dict[str, int | bool]:
    """The static table: rows per program (of four warps) and fields of M that each of its threads holds."""
    far = c > NEAR
    if order == 0:
        held = 1 if far else max(c, 1)
        rows = 32 if held <= 8 else 16
    else:
        held = CHUNK.value if far else max(c, 1)
        rows = 16 if held <= 8 else 8 if held <= 16 or order == 1 else 4
    # Registers of two words in float64; and few rows need more programs, so that every multiprocessor has some.
    if dtype == torch.float64:
        rows = max(rows // 2, 4)
    if n * b <= 8192:
        rows = max(rows // 2, 4)
    own = {"SECOND": order == 2} if order else {"SPAN": FAR_SPAN if far else 1}
    return {"ROWS": rows, "HELD": held, "FAR": far, **own}


def _packed(order: int, m: Tensor, grad: Tensor, v: Tensor, span: int) -> tuple[Tensor, int]:
    n, b, c = m.shape
    channels = ceil_div(c, CHUNK.value) * CHUNK.value if c > NEAR else max(c, 1)
    count = channels * max(order, 1) + (order > 0)
    row_tiles = ceil_div(n, TILE.value * span) * span
    packed = m.new_empty((b, row_tiles, count, TILE.value), dtype=accumulator(m.dtype))
    _pack[(row_tiles * ceil_div(b * count, TILE.value),)](
        m, grad, v, packed, n, row_tiles, b * count, count, channels, c,
        *m.stride(), *grad.stride()[:2], *v.stride(), ORDER=order, num_warps=4, num_stages=1,
    )  # fmt: skip
    return packed, channels


def _launch(order: int, m: Tensor, grad: Tensor, v: Tensor, *outputs: Tensor, include_self: bool = False) -> None:
    n, b, c = m.shape
    if n == 0 or b == 0:
        return
    tiling = _tiling(order, n, b, c, m.dtype)
    span = tiling.get("SPAN", 1)
    groups = ceil_div(c, tiling["HELD"]) if order and tiling["FAR"] else 1
    grid = (ceil_div(n, tiling["ROWS"]) * b * groups,)
    kernel, last = (_derivative, (c, groups)) if order else (_forward, (int(include_self),))
    with on_device_of(m):
        packed, channels = _packed(order, m, grad, v, span)
        sizes = (n, b, channels, packed.stride(1), packed.shape[1], *last)
        kernel[grid](packed, *outputs, *sizes, **tiling, num_warps=4, num_stages=1)


def minibatch_l1(m: Tensor, include_self: bool) -> Tensor:
    """o, (N, B), of m, (N, B, C)."""
    o = m.new_empty(m.shape[:2])
    _launch(0, m, m, m, o, include_self=include_self)
    return o


def minibatch_l1_backward(grad: Tensor, m: Tensor) -> Tensor:
    """dM, (N, B, C), for the gradient of o, (N, B)."""
    dm = m.new_empty(m.shape)
    _launch(1, m, grad, m, dm, dm)
    return dm


def minibatch_l1_double_backward(v: Tensor, grad: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of <V, dM> with respect to grad, (N, B), and m, (N, B, C)."""
    dg, dm = m.new_empty(m.shape[:2]), m.new_empty(m.shape)
    _launch(2, m, grad, v, dg, dm)
    return dg, dm


def aot_specs() -> list[AotSpec]:
    """Every line of the static table, with many rows and with few, in float32 and float64.

    Each comes at its largest C, and in float32 at the usual C = 5, too. The half types differ from float32 in `_pack`'s
    loads and in the last stores alone: they come at C = 5 and 16.
    """
    specs = {}
    for dtype, name in NAMES.items():
        double, half = name == "fp64", name in ("bf16", "fp16")
        types = dict.fromkeys(("m", "g", "v", "out", "dg", "dm"), f"*{name}")
        types["packed"] = f"*{NAMES[accumulator(dtype)]}"

        def add(row, kernel, constexprs, types=types, **options):
            signature = {a: "constexpr" if a in constexprs else types.get(a, "i32") for a in kernel.arg_names}
            specs[row] = AotSpec(row, kernel, signature, constexprs, **options)

        for order, order_name in enumerate(("forward", "backward", "double_backward")):
            add(f"pack{order} {name}", _pack, {"ORDER": order})
            kernel, element = _derivative if order else _forward, "" if double else r"\|R\d+\|"
            for c in (5, 16) if half else (8, 16, NEAR, 2 * NEAR) if double else (5, 8, 16, NEAR, 2 * NEAR):
                many, few = (_tiling(order, n, 100, c, dtype) for n in (1024, 64))
                for tiling, rows in ((many, ""), (few, " few rows"))[: 1 if half or few == many else 2]:
                    floor = 0 if order and tiling["FAR"] else (2, 5, 8)[order]  # far derivatives take two loops
                    row = f"{order_name} {name} C={c}{rows}"
                    add(row, kernel, tiling, element=element, floor=floor, may_spill=double)
    return list(specs.values())
