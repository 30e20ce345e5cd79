"""Triton kernels of norm_penalty: bandwidth is all they need, one pass over each tensor."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankern.ops._triton import NAMES, AotSpec, accumulator, on_device_of
from gankern.ops._triton_rows import BLOCK, OPTIONS, load, partial_sums, parts_of, place, sum_parts

_SIZES = ["d", "parts", "a_n", "a_d", "b_n", "b_d", "g_n", "g_d", "v_n", "v_d", "p_n", "norm_n"]


@triton.jit
def _target(high, low, like):
    # A float argument is a float32: a float64 comes as the sum of two.
    return tl.zeros_like(like) + high + low


@triton.jit
def _first(p, n, target, KIND: tl.constexpr):
    """c / 2, whether the row is flat, and n where something is divided by it, else 1."""
    one = tl.zeros_like(n) + 1
    if KIND == 2:
        return p, n != n, one
    flat = n == 0
    if KIND == 1:
        flat = flat | (n < target)
    divisor = tl.where(n == 0, one, n)
    return tl.where(flat, 0, p * (2 * (n - target)) / (2 * divisor)), flat, divisor


@triton.jit(do_not_specialize=_SIZES)
def _products(a, b, partial, d, parts, a_n, a_d, b_n, b_d, FACTOR: tl.constexpr):
    n, p, first, last = place(d, parts)
    total = tl.zeros((BLOCK,), partial.dtype.element_ty)
    for at in range(first, last, BLOCK):
        k = at + tl.arange(0, BLOCK)
        x = load(a + n * a_n, k, a_d, k < last, partial)
        total += x * (FACTOR * load(b + n * b_n, k, b_d, k < last, partial))
    tl.store(partial + n * parts + p, tl.sum(total, 0))


@triton.jit(do_not_specialize=_SIZES)
def _values(partial, value, norm, high, low, parts, KIND: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    square = sum_parts(partial, n, parts)
    root = tl.sqrt(square) if square.dtype == tl.float64 else tl.sqrt_rn(square)
    excess = root - _target(high, low, root)
    charge = excess * excess
    if KIND == 1:
        charge = tl.where(excess < 0, 0, charge)
    if KIND == 2:
        charge = square
    tl.store(value + n, charge)
    tl.store(norm + n, root)


@triton.jit(do_not_specialize=_SIZES)
def _backward(grad, g, norm, dg, high, low, d, parts, p_n, norm_n, g_n, g_d, KIND: tl.constexpr):
    n, _, first, last = place(d, parts)
    size = tl.load(norm + n * norm_n)
    half, _, _ = _first(tl.load(grad + n * p_n), size, _target(high, low, size), KIND)
    c = 2 * half
    for at in range(first, last, BLOCK):
        k = at + tl.arange(0, BLOCK)
        x = c * load(g + n * g_n, k, g_d, k < last, norm)
        tl.store(dg + n * d + k, x.to(dg.dtype.element_ty), k < last)


@triton.jit(do_not_specialize=_SIZES)
def _double_backward(
    partial, v, grad, g, norm, dgrad, dg, high, low, d, parts, v_n, v_d, p_n, norm_n, g_n, g_d, KIND: tl.constexpr
):
    n, p, first, last = place(d, parts)
    size = tl.load(norm + n * norm_n)
    target = _target(high, low, size)
    up = tl.load(grad + n * p_n)
    half, flat, divisor = _first(up, size, target, KIND)
    along = sum_parts(partial, n, parts)
    slope = tl.where(flat, 0, along / (2 * divisor))
    dp = along if KIND == 2 else slope * (2 * (size - target))
    tl.store(dgrad + n, dp, p == 0)
    # In the order of autograd's own steps, as the reference.
    dnorm = tl.where(flat, 0, 2 * (slope * up)) - 2 * (along * (half / (2 * divisor)))
    curve = 2 * (dnorm / (2 * divisor))
    for at in range(first, last, BLOCK):
        k = at + tl.arange(0, BLOCK)
        x = 2 * (half * load(v + n * v_n, k, v_d, k < last, partial))
        if KIND != 2:
            x += tl.where(size == 0, 0, curve * load(g + n * g_n, k, g_d, k < last, partial))
        tl.store(dg + n * d + k, x.to(dg.dtype.element_ty), k < last)


def _per_sample(g: Tensor) -> Tensor:
    return g.new_empty(g.shape[:1], dtype=accumulator(g.dtype))


def _sum_products(a: Tensor, b: Tensor, factor: int) -> Tensor:
    partial = partial_sums(a)
    n, d = a.shape
    parts = partial.shape[1]
    _products[(n * parts,)](a, b, partial, d, parts, *a.stride(), *b.stride(), FACTOR=factor, **OPTIONS)
    return partial


def _halves(target: float) -> tuple[float, float]:
    high = float(torch.tensor(target, dtype=torch.float32))
    return high, target - high if math.isfinite(high) else 0.0


def norm_penalty(g: Tensor, kind: int, target: float) -> tuple[Tensor, Tensor]:
    """Value and norm, (N,) each, of g, (N, D)."""
    value, norm = _per_sample(g), _per_sample(g)
    if g.shape[0]:
        with on_device_of(g):
            partial = _sum_products(g, g, 1)
            parts = partial.shape[1]
            _values[(g.shape[0],)](partial, value, norm, *_halves(target), parts, KIND=kind, **OPTIONS)
    return value, norm


def norm_penalty_backward(grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float) -> Tensor:
    """The gradient of g, (N, D), for the gradient of the value, (N,)."""
    dg = g.new_empty(g.shape)
    n, d = g.shape
    if g.numel():
        parts = parts_of(d)
        with on_device_of(g):
            _backward[(n * parts,)](
                grad, g, norm, dg, *_halves(target), d, parts, grad.stride(0), norm.stride(0), *g.stride(),
                KIND=kind, **OPTIONS,
            )  # fmt: skip
    return dg


def norm_penalty_double_backward(
    v: Tensor, grad: Tensor, g: Tensor, norm: Tensor, kind: int, target: float
) -> tuple[Tensor, Tensor]:
    """Gradients of <V, dg> with respect to grad, (N,), and g, (N, D)."""
    dgrad, dg = _per_sample(g), g.new_empty(g.shape)
    n, d = g.shape
    if n:
        parts = parts_of(d)
        with on_device_of(g):
            partial = _sum_products(v, g, 2)
            _double_backward[(n * parts,)](
                partial, v, grad, g, norm, dgrad, dg, *_halves(target), d, parts,
                *v.stride(), grad.stride(0), norm.stride(0), *g.stride(), KIND=kind, **OPTIONS,
            )  # fmt: skip
    return dgrad, dg


def aot_specs() -> list[AotSpec]:
    """Every kernel in every dtype; every kind and factor in float32, where they cost the same as elsewhere."""
    specs = []
    for dtype, name in NAMES.items():
        wide = f"*{NAMES[accumulator(dtype)]}"
        types = dict.fromkeys(("a", "b", "g", "v", "dg"), f"*{name}")
        types |= dict.fromkeys(("partial", "value", "norm", "grad", "dgrad"), wide) | {"high": "fp32", "low": "fp32"}
        factors, kinds = ((1, 2), (0, 1, 2)) if dtype == torch.float32 else ((2,), (0,))
        kernels: list[tuple[Any, dict[str, Any]]] = [(_products, {"FACTOR": x}) for x in factors]
        kernels += [(k, {"KIND": x}) for k in (_backward, _double_backward) for x in kinds]
        if accumulator(dtype) == dtype:  # `_values` sees sums alone: the half types launch float32's
            kernels += [(_values, {"KIND": x}) for x in kinds]
        for kernel, constexprs in kernels:
            signature = {a: "constexpr" if a in constexprs else types.get(a, "i32") for a in kernel.arg_names}
            row = f"{kernel.__name__.strip('_')} {name}" + "".join(f" {a.lower()} {x}" for a, x in constexprs.items())
            specs.append(AotSpec(row, kernel, signature, constexprs, may_spill=dtype == torch.float64, **OPTIONS))
    return specs
