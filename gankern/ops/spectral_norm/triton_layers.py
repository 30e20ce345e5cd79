"""Triton kernels of spectral_norm: a few launches for all layers, which find their tensors in a table of pointers.

A row of the table describes a layer: addresses of up to three tensors of the weight's shape and of an output, then the
sizes of the weight as (outer, rows, inner) and where its vectors begin. Work is cut into items by shapes alone: runs
of rows for products, runs of elements for the rest. Sums go through one partial result per item, added in order by
one program per layer: no atomics, the same bits each time. Norms and dot products are finished in float64.

Columns of a row need not be contiguous, so a transposed convolution's weight is read where it lies.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Fields of the table's rows.
FIELDS = tl.constexpr(12)
A, B, C, OUT, ROWS_OF, INNER, COLUMNS_OF, SIZE, U_AT, Y_AT, FIRST, LAST = (tl.constexpr(k) for k in range(12))
# Fields of an item: its layer, its range, where its partial z begins.
ITEM = tl.constexpr(4)


@triton.jit
def _field(table, layer, K: tl.constexpr):
    return tl.load(table + layer * FIELDS + K)


@triton.jit
def _pointer(table, layer, like, K: tl.constexpr):
    return tl.load(table + layer * FIELDS + K).to(like.dtype)


@triton.jit
def _panel(w, r, c, rows, inner, columns, live, like):
    # Elements of the rows r and columns c of a matrix, as `like`'s elements; 0 outside.
    at = ((c // inner) * rows * inner + c % inner)[None, :] + r[:, None] * inner
    return tl.load(w + at, live[:, None] & (c < columns)[None, :], other=0.0).to(like.dtype.element_ty)


@triton.jit
def _products(
    table, items, vectors, y, z, like, WITH_Z: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    # y = M v for an item's rows, and the item's part of M^T y.
    item = tl.program_id(0).to(tl.int64)
    layer = tl.load(items + item * ITEM)
    begin = tl.load(items + item * ITEM + 1)
    end = tl.load(items + item * ITEM + 2)
    part = z + tl.load(items + item * ITEM + 3)
    m = _pointer(table, layer, like, A)
    rows, inner, columns = _field(table, layer, ROWS_OF), _field(table, layer, INNER), _field(table, layer, COLUMNS_OF)
    v = vectors + _field(table, layer, U_AT) + rows
    to = y + _field(table, layer, Y_AT)
    for r0 in range(begin, end, ROWS):
        r = r0 + tl.arange(0, ROWS)
        total = tl.zeros((ROWS, COLUMNS), y.dtype.element_ty)
        for c0 in range(0, columns, COLUMNS):
            c = c0 + tl.arange(0, COLUMNS)
            total += _panel(m, r, c, rows, inner, columns, r < end, y) * tl.load(v + c, c < columns, other=0.0)[None, :]
        product = tl.sum(total, 1)
        tl.store(to + r, product, r < end)
        if WITH_Z:
            for c0 in range(0, columns, COLUMNS):
                c = c0 + tl.arange(0, COLUMNS)
                more = tl.sum(_panel(m, r, c, rows, inner, columns, r < end, y) * product[:, None], 0)
                before = tl.load(part + c, (c < columns) & (r0 > begin), other=0.0)
                tl.store(part + c, before + more, c < columns)


@triton.jit
def _square(p, count, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float64)
    for k0 in range(0, count, BLOCK):
        k = k0 + tl.arange(0, BLOCK)
        x = tl.load(p + k, k < count, other=0.0).to(tl.float64)
        total += x * x
    return tl.sum(total, 0)


@triton.jit
def _scale(to, source, divisor, count, BLOCK: tl.constexpr):
    for k0 in range(0, count, BLOCK):
        k = k0 + tl.arange(0, BLOCK)
        x = tl.load(source + k, k < count, other=0.0).to(tl.float64) / divisor
        tl.store(to + k, x.to(to.dtype.element_ty), k < count)


@triton.jit
def _clamp(x, eps):
    return tl.where(x < eps, eps, x)  # a NaN stays


@triton.jit
def _finish(
    table, items, vectors, y, z, sigma, like, eps: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # u, v and sigma of a layer from y = W v and the parts of z = W^T y, which is |y| times W^T u. Both lengths must be
    # in range: v comes from the caller and need not be a unit vector, so |y| alone does not tell the size of W.
    layer = tl.program_id(0).to(tl.int64)
    rows, inner, columns = _field(table, layer, ROWS_OF), _field(table, layer, INNER), _field(table, layer, COLUMNS_OF)
    first, last = _field(table, layer, FIRST), _field(table, layer, LAST)
    u = vectors + _field(table, layer, U_AT)
    v = u + rows
    product = y + _field(table, layer, Y_AT)
    length = tl.sqrt(_square(product, rows, BLOCK))
    a = _clamp(length, eps)
    _scale(u, product, a, rows, BLOCK)
    for c0 in range(0, columns, COLUMNS):
        c = c0 + tl.arange(0, COLUMNS)
        total = tl.zeros((COLUMNS,), y.dtype.element_ty)
        for item in range(first, last):
            total += tl.load(z + tl.load(items + item * ITEM + 3) + c, c < columns, other=0.0)
        tl.store(v + c, total, c < columns)
    tl.debug_barrier()
    norm = tl.sqrt(_square(v, columns, BLOCK))
    safe = (length > LOW) & (length < HIGH) & (norm > LOW * LOW) & (norm < HIGH * HIGH)
    divisor = tl.where(safe, a, 1.0)
    if not safe:  # rare: read W again, with u in place of y
        w = _pointer(table, layer, like, A)
        tl.debug_barrier()
        for c0 in range(0, columns, COLUMNS):
            c = c0 + tl.arange(0, COLUMNS)
            at = c // inner * rows * inner + c % inner
            total = tl.zeros((COLUMNS,), y.dtype.element_ty)
            for r in range(rows):
                more = tl.load(w + at + r * inner, c < columns, other=0.0).to(total.dtype)
                total += more * tl.load(u + r)
            tl.store(v + c, total, c < columns)
        tl.debug_barrier()
        norm = tl.sqrt(_square(v, columns, BLOCK))
    tl.debug_barrier()
    s = norm / divisor
    b = _clamp(s, eps)
    _scale(v, v, divisor * b, columns, BLOCK)
    tl.store(sigma + layer, (s * (s / b)).to(sigma.dtype.element_ty))


@triton.jit
def _bilinear(table, vectors, y, out, BLOCK: tl.constexpr):
    # u . y of a layer.
    layer = tl.program_id(0).to(tl.int64)
    rows = _field(table, layer, ROWS_OF)
    u, product = vectors + _field(table, layer, U_AT), y + _field(table, layer, Y_AT)
    total = tl.zeros((BLOCK,), tl.float64)
    for k0 in range(0, rows, BLOCK):
        k = k0 + tl.arange(0, BLOCK)
        x = tl.load(u + k, k < rows, other=0.0).to(tl.float64)
        total += x * tl.load(product + k, k < rows, other=0.0).to(tl.float64)
    tl.store(out + layer, tl.sum(total, 0).to(out.dtype.element_ty))


@triton.jit
def _dots(table, items, parts, like, P: tl.constexpr, Q: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    # <p, q> over an item's elements.
    item = tl.program_id(0).to(tl.int64)
    layer = tl.load(items + item * ITEM)
    begin, end = tl.load(items + item * ITEM + 1), tl.load(items + item * ITEM + 2)
    p, q = _pointer(table, layer, like, P), _pointer(table, layer, like, Q)
    total = tl.zeros((BLOCK,), WIDE)
    for k0 in range(begin, end, BLOCK):
        k = k0 + tl.arange(0, BLOCK)
        total += tl.load(p + k, k < end, other=0.0).to(WIDE) * tl.load(q + k, k < end, other=0.0).to(WIDE)
    tl.store(parts + item, tl.sum(total.to(tl.float64), 0))


@triton.jit
def _sum_parts(table, parts, out, BLOCK: tl.constexpr):
    layer = tl.program_id(0).to(tl.int64)
    first, last = _field(table, layer, FIRST), _field(table, layer, LAST)
    total = tl.zeros((BLOCK,), tl.float64)
    for k0 in range(first, last, BLOCK):
        k = k0 + tl.arange(0, BLOCK)
        total += tl.load(parts + k, k < last, other=0.0)
    tl.store(out + layer, tl.sum(total, 0))


@triton.jit
def _elements(
    table, items, vectors, sigma, second, beta, like, MODE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    # MODE 0: A / sigma. 1: A / sigma + beta u v^T. 2: (A - a B / sigma) / sigma. 3: beta u v^T - a A / sigma^2.
    item = tl.program_id(0).to(tl.int64)
    layer = tl.load(items + item * ITEM)
    begin, end = tl.load(items + item * ITEM + 1), tl.load(items + item * ITEM + 2)
    x, out = _pointer(table, layer, like, A), _pointer(table, layer, like, OUT)
    s = tl.load(sigma + layer)
    rows, inner = _field(table, layer, ROWS_OF), _field(table, layer, INNER)
    u = vectors + _field(table, layer, U_AT)
    for k0 in range(begin, end, BLOCK):
        k = k0 + tl.arange(0, BLOCK)
        live = k < end
        value = tl.load(x + k, live, other=0.0).to(s.dtype) / s
        if MODE == 2:
            w = tl.load(_pointer(table, layer, like, B) + k, live, other=0.0).to(s.dtype) / s
            value -= tl.load(second + layer) * w / s
        if MODE == 3:
            value = -(tl.load(second + layer) / s) * value
        if MODE == 1 or MODE == 3:
            row, column = (k // inner) % rows, k // (inner * rows) * inner + k % inner
            factor = tl.load(u + row, live, other=0.0) * tl.load(u + rows + column, live, other=0.0)
            value += tl.load(beta + layer) * factor
        tl.store(out + k, value.to(out.dtype.element_ty), live)
