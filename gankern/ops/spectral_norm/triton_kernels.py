"""Triton kernels of spectral_norm: a few launches for all layers, which find their tensors in a table of pointers.

A row of the table describes a layer: addresses of up to three tensors of the weight's shape and of an output, then the
sizes of the weight as (outer, rows, inner) and where its vectors begin. Work is cut into items by shapes alone: runs
of rows for products, runs of elements for the rest. Sums go through one partial result per item, added in order by
one program per layer: no atomics, the same bits each time. Norms and dot products are finished in float64.

Columns of a row need not be contiguous, so a transposed convolution's weight is read where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankern.ops._triton import NAMES, AotSpec, accumulator, ceil_div, on_device_of
from gankern.ops.spectral_norm.reference import sizes

# Fields of the table's rows.
FIELDS = tl.constexpr(12)
A, B, C, OUT, ROWS_OF, INNER, COLUMNS_OF, SIZE, U_AT, Y_AT, FIRST, LAST = (tl.constexpr(k) for k in range(12))
# Fields of an item: its layer, its range, where its partial z begins.
ITEM = tl.constexpr(4)
ROWS = 8
COLUMNS = 256
BLOCK = 1024
CHUNK = 8192


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
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # u, v and sigma of a layer from y = W v and the parts of z = W^T y, which is |y| times W^T u.
    layer = tl.program_id(0).to(tl.int64)
    rows, inner, columns = _field(table, layer, ROWS_OF), _field(table, layer, INNER), _field(table, layer, COLUMNS_OF)
    first, last = _field(table, layer, FIRST), _field(table, layer, LAST)
    u = vectors + _field(table, layer, U_AT)
    product = y + _field(table, layer, Y_AT)
    length = tl.sqrt(_square(product, rows, BLOCK))
    a = _clamp(length, eps)
    _scale(u, product, a, rows, BLOCK)
    safe = (length > LOW) & (length < HIGH)
    w = _pointer(table, layer, like, A)
    tl.debug_barrier()
    for c0 in range(0, columns, COLUMNS):
        c = c0 + tl.arange(0, COLUMNS)
        total = tl.zeros((COLUMNS,), y.dtype.element_ty)
        if safe:
            for item in range(first, last):
                total += tl.load(z + tl.load(items + item * ITEM + 3) + c, c < columns, other=0.0)
        else:  # rare: read W again, with u in place of y
            for r0 in range(0, rows, ROWS):
                r = r0 + tl.arange(0, ROWS)
                factor = tl.load(u + r, r < rows, other=0.0)
                total += tl.sum(_panel(w, r, c, rows, inner, columns, r < rows, y) * factor[:, None], 0)
        tl.store(u + rows + c, total, c < columns)
    tl.debug_barrier()
    divisor = tl.where(safe, a, 1.0)
    s = tl.sqrt(_square(u + rows, columns, BLOCK)) / divisor
    b = _clamp(s, eps)
    _scale(u + rows, u + rows, divisor * b, columns, BLOCK)
    tl.store(sigma + layer, (s * s / b).to(sigma.dtype.element_ty))


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


class _Plan:
    """The table and the items of one call."""

    def __init__(self, weights: Sequence[Tensor], dims: Sequence[int]) -> None:
        self.like = weights[0]
        self.accumulator = accumulator(self.like.dtype)
        lengths = sizes(list(weights), list(dims))
        self.rows, self.columns = lengths[::2], lengths[1::2]
        self.inner = []
        for w, dim in zip(weights, dims, strict=True):
            inner = 1
            for n in w.shape[dim + 1 :]:
                inner *= n
            self.inner.append(max(inner, 1))
        self.count = len(self.rows)
        step = max(sum(h * w for h, w in zip(self.rows, self.columns, strict=True)) // 128, 16384)
        self.row_items, self.z_length = self._cut(self.rows, [max(1, step // max(w, 1)) for w in self.columns], ROWS)
        self.element_items, _ = self._cut(
            [h * w for h, w in zip(self.rows, self.columns, strict=True)], [CHUNK] * self.count, BLOCK
        )

    def _cut(self, lengths: Sequence[int], steps: Sequence[int], multiple: int) -> tuple[list[list[int]], int]:
        items, at = [], 0
        for layer, (length, step) in enumerate(zip(lengths, steps, strict=True)):
            step = ceil_div(step, multiple) * multiple
            for begin in range(0, length, step):
                items.append([layer, begin, min(length, begin + step), at])
                at += self.columns[layer]
        return items, at

    def upload(self, rows: list[list[int]]) -> Tensor:
        """Integers on the device."""
        return torch.tensor(rows or [[0]], dtype=torch.int64).to(self.like.device, non_blocking=True)

    def table(self, items: list[list[int]], *tensors: Sequence[Tensor], out: Sequence[Tensor] | None = None) -> Tensor:
        """The table for kernels over these items."""
        found, u_at, y_at = [], 0, 0
        counts = [0] * (self.count + 1)
        for item in items:
            counts[item[0] + 1] += 1
        for k in range(self.count):
            counts[k + 1] += counts[k]
            pointers = [x[k].data_ptr() for x in tensors] + [0] * (3 - len(tensors))
            pointers.append(out[k].data_ptr() if out is not None else 0)
            shape = [self.rows[k], self.inner[k], self.columns[k], self.rows[k] * self.columns[k]]
            found.append([*pointers, *shape, u_at, y_at, counts[k], counts[k + 1]])
            u_at += self.rows[k] + self.columns[k]
            y_at += self.rows[k]
        return self.upload(found)

    def new(self, length: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised vector."""
        return self.like.new_empty(length, dtype=dtype or self.accumulator)

    def outputs(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Uninitialised results."""
        return [w.new_empty(w.shape) for w in weights]

    def bilinear(self, matrices: Sequence[Tensor], vectors: Tensor) -> Tensor:
        """u . (M v) of each layer."""
        table, items = self.table(self.row_items, matrices), self.upload(self.row_items)
        y, found = self.new(sum(self.rows)), self.new(self.count)
        if self.row_items:
            _products[(len(self.row_items),)](table, items, vectors, y, y, self.like, False, ROWS, COLUMNS)
        _bilinear[(self.count,)](table, vectors, y, found, BLOCK)
        return found

    def dots(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """<a, b> of each layer, in float64."""
        table, items = self.table(self.element_items, a, b), self.upload(self.element_items)
        parts, found = self.new(len(self.element_items) + 1, torch.float64), self.new(self.count, torch.float64)
        if self.element_items:
            wide = tl.float64 if self.accumulator == torch.float64 else tl.float32
            _dots[(len(self.element_items),)](table, items, parts, self.like, 0, 1, BLOCK, wide)
        _sum_parts[(self.count,)](table, parts, found, BLOCK)
        return found

    def elements(
        self, mode: int, inputs: Sequence[Sequence[Tensor]], out: Sequence[Tensor], vectors: Tensor, *numbers: Tensor
    ) -> None:
        """Runs `_elements`; `numbers` are sigma, a and beta."""
        if self.element_items:
            table, items = self.table(self.element_items, *inputs, out=out), self.upload(self.element_items)
            _elements[(len(self.element_items),)](table, items, vectors, *numbers, self.like, mode, BLOCK)


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.contiguous() for x in tensors]


def spectral_norm_power(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n_power_iterations: int, eps: float
) -> tuple[Tensor, Tensor]:
    """The vectors after the iterations, and each sigma."""
    plan, weights = _Plan(weights, dims), _contiguous(weights)
    vectors = torch.cat([x.to(plan.accumulator) for pair in zip(u, v, strict=True) for x in pair])
    with on_device_of(weights[0]):
        if n_power_iterations == 0:
            return vectors, plan.bilinear(weights, vectors)
        table, items = plan.table(plan.row_items, weights), plan.upload(plan.row_items)
        y, z, sigma = plan.new(sum(plan.rows) + 1), plan.new(plan.z_length + 1), plan.new(plan.count)
        low, high = (1e-150, 1e150) if plan.accumulator == torch.float64 else (1e-8, 1e12)
        for _ in range(n_power_iterations):
            if plan.row_items:
                _products[(len(plan.row_items),)](table, items, vectors, y, z, plan.like, True, ROWS, COLUMNS)
            _finish[(plan.count,)](
                table, items, vectors, y, z, sigma, plan.like, eps, low, high, ROWS, COLUMNS, COLUMNS
            )
        return vectors, sigma


def spectral_norm(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n_power_iterations: int, eps: float
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Each W / sigma, the vectors, and each sigma."""
    vectors, sigma = spectral_norm_power(weights, u, v, dims, n_power_iterations, eps)
    plan, weights = _Plan(weights, dims), _contiguous(weights)
    normalized = plan.outputs(weights)
    with on_device_of(sigma):
        plan.elements(0, [weights], normalized, vectors, sigma, sigma, sigma)
    return normalized, vectors, sigma


def spectral_norm_backward(
    grads: list[Tensor], grad_sigma: Tensor, weights: list[Tensor], vectors: Tensor, sigma: Tensor, dims: list[int]
) -> list[Tensor]:
    """Each dW for the gradients of the normalised weights and of sigma."""
    plan, grads, weights = _Plan(weights, dims), _contiguous(grads), _contiguous(weights)
    dw = plan.outputs(weights)
    with on_device_of(sigma):
        beta = (grad_sigma - plan.dots(grads, weights) / sigma / sigma).to(plan.accumulator)
        plan.elements(1, [grads], dw, vectors, sigma, sigma, beta)
    return dw


def spectral_norm_double_backward(
    cotangents: list[Tensor],
    grads: list[Tensor],
    grad_sigma: Tensor,
    weights: list[Tensor],
    vectors: Tensor,
    sigma: Tensor,
    dims: list[int],
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Gradients of sum_l <V_l, dW_l> with respect to the gradients of the weights and of sigma, and the weights."""
    plan = _Plan(weights, dims)
    cotangents, grads, weights = _contiguous(cotangents), _contiguous(grads), _contiguous(weights)
    dgrads, dweights = plan.outputs(weights), plan.outputs(weights)
    with on_device_of(sigma):
        a = plan.bilinear(cotangents, vectors)
        p, c = plan.dots(cotangents, grads), plan.dots(grads, weights) / sigma
        beta = ((2 * a.double() * c - p) / sigma / sigma).to(plan.accumulator)
        plan.elements(2, [cotangents, weights], dgrads, vectors, sigma, a, beta)
        plan.elements(3, [grads], dweights, vectors, sigma, a, beta)
    return dgrads, a, dweights


def aot_specs() -> list[AotSpec]:
    """Every kernel in every dtype, as it is launched."""
    specs = []
    for dtype, name in NAMES.items():
        wide = NAMES[accumulator(dtype)]
        double = name == "fp64"
        pointers = {"table": "*i64", "items": "*i64", "like": f"*{name}", "parts": "*fp64"}
        pointers |= dict.fromkeys(("vectors", "y", "z", "sigma", "second", "beta"), f"*{wide}")
        low, high = (1e-150, 1e150) if double else (1e-8, 1e12)
        tile = {"ROWS": ROWS, "COLUMNS": COLUMNS}
        plans: list[tuple[str, Any, dict[str, Any]]] = [
            ("products", _products, {"WITH_Z": True, **tile}),
            ("products y", _products, {"WITH_Z": False, **tile}),
            ("finish", _finish, {"eps": 1e-12, "LOW": low, "HIGH": high, **tile, "BLOCK": COLUMNS}),
            ("bilinear", _bilinear, {"BLOCK": BLOCK}),
            ("dots", _dots, {"P": 0, "Q": 1, "BLOCK": BLOCK, "WIDE": tl.float64 if double else tl.float32}),
            ("sum_parts", _sum_parts, {"BLOCK": BLOCK}),
            *((f"elements {mode}", _elements, {"MODE": mode, "BLOCK": BLOCK}) for mode in range(4)),
        ]
        for row, kernel, constexprs in plans:
            types = pointers | {"out": "*fp64" if row == "sum_parts" else f"*{wide}"}
            signature = {a: "constexpr" if a in constexprs else types[a] for a in kernel.arg_names}
            specs.append(AotSpec(f"{row} {name}", kernel, signature, constexprs, may_spill=double))
    return specs
