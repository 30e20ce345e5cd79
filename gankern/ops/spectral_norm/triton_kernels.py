"""Launches the Triton kernels of `triton_layers.py`: the table of layers, the items, and the operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from gankern.ops._triton import NAMES, AotSpec, accumulator, ceil_div, on_device_of
from gankern.ops.spectral_norm.reference import sizes
from gankern.ops.spectral_norm.triton_layers import _bilinear, _dots, _elements, _finish, _products, _sum_parts

ROWS = 8
COLUMNS = 256
BLOCK = 1024
CHUNK = 8192
#: |W v|, and squared |W^T (W v)|, within which no sum overflows or loses digits to underflow.
SAFE = {torch.float64: (1e-75, 1e75), torch.float32: (1e-8, 1e12)}


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
        low, high = SAFE[plan.accumulator]
        for _ in range(n_power_iterations):
            if plan.row_items:
                _products[(len(plan.row_items),)](table, items, vectors, y, z, plan.like, True, ROWS, COLUMNS)
            _finish[(plan.count,)](table, items, vectors, y, z, sigma, plan.like, eps, low, high, COLUMNS, COLUMNS)
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
    specs: list[AotSpec] = []
    for dtype, name in NAMES.items():
        wide = NAMES[accumulator(dtype)]
        double = name == "fp64"
        pointers = {"table": "*i64", "items": "*i64", "like": f"*{name}", "parts": "*fp64"}
        pointers |= dict.fromkeys(("vectors", "y", "z", "sigma", "second", "beta"), f"*{wide}")
        low, high = SAFE[accumulator(dtype)]
        tile = {"ROWS": ROWS, "COLUMNS": COLUMNS}
        plans: list[tuple[str, Any, dict[str, Any]]] = [
            ("products", _products, {"WITH_Z": True, **tile}),
            ("products y", _products, {"WITH_Z": False, **tile}),
            ("finish", _finish, {"eps": 1e-12, "LOW": low, "HIGH": high, "COLUMNS": COLUMNS, "BLOCK": COLUMNS}),
            ("bilinear", _bilinear, {"BLOCK": BLOCK}),
            ("dots", _dots, {"P": 0, "Q": 1, "BLOCK": BLOCK, "WIDE": tl.float64 if double else tl.float32}),
            ("sum_parts", _sum_parts, {"BLOCK": BLOCK}),
            *((f"elements {mode}", _elements, {"MODE": mode, "BLOCK": BLOCK}) for mode in range(4)),
        ]
        for row, kernel, constexprs in plans:
            types = pointers | {"out": "*fp64" if row == "sum_parts" else f"*{wide}"}
            signature = {a: "constexpr" if a in constexprs else types[a] for a in kernel.arg_names}
            if any((x.kernel, x.signature, x.constexprs) == (kernel, signature, constexprs) for x in specs):
                continue  # the same for several dtypes
            specs.append(AotSpec(f"{row} {name}", kernel, signature, constexprs, may_spill=double))
    return specs
