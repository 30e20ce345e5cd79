"""Triton kernels of interpolate: bandwidth is all they need, one pass over each tensor."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankern.ops._triton import NAMES, AotSpec, accumulator, on_device_of
from gankern.ops._triton_rows import BLOCK, OPTIONS, load, partial_sums, parts_of, place, sum_parts

_SIZES = ["d", "parts", "a_n", "w_n"] + [f"{x}_{axis}" for x in ("r", "f", "g", "vr", "vf") for axis in "nd"]


@triton.jit(do_not_specialize=_SIZES)
def _forward(real, fake, alpha, out, d, parts, a_n, r_n, r_d, f_n, f_d):
    n, _, first, last = place(d, parts)
    a = tl.load(alpha + n * a_n)
    for at in range(first, last, BLOCK):
        k = at + tl.arange(0, BLOCK)
        x = a * load(real + n * r_n, k, r_d, k < last, alpha)
        x += (1 - a) * load(fake + n * f_n, k, f_d, k < last, alpha)
        tl.store(out + n * d + k, x.to(out.dtype.element_ty), k < last)


@triton.jit(do_not_specialize=_SIZES)
def _backward(grad, real, fake, alpha, dreal, dfake, partial, d, parts, g_n, g_d, a_n, r_n, r_d, f_n, f_d):
    n, p, first, last = place(d, parts)
    a = tl.load(alpha + n * a_n)
    total = tl.zeros((BLOCK,), partial.dtype.element_ty)
    for at in range(first, last, BLOCK):
        k = at + tl.arange(0, BLOCK)
        inside = k < last
        g = load(grad + n * g_n, k, g_d, inside, partial)
        total += g * load(real + n * r_n, k, r_d, inside, partial)
        total -= g * load(fake + n * f_n, k, f_d, inside, partial)
        tl.store(dreal + n * d + k, (a * g).to(dreal.dtype.element_ty), inside)
        tl.store(dfake + n * d + k, ((1 - a) * g).to(dfake.dtype.element_ty), inside)
    tl.store(partial + n * parts + p, tl.sum(total, 0))


@triton.jit(do_not_specialize=_SIZES)
def _double_backward(
    vr, vf, va, grad, real, fake, alpha, dgrad, dreal, dfake, partial, d, parts,
    vr_n, vr_d, vf_n, vf_d, w_n, g_n, g_d, a_n, r_n, r_d, f_n, f_d,
):  # fmt: skip
    n, p, first, last = place(d, parts)
    a = tl.load(alpha + n * a_n)
    w = tl.load(va + n * w_n)
    total = tl.zeros((BLOCK,), partial.dtype.element_ty)
    for at in range(first, last, BLOCK):
        k = at + tl.arange(0, BLOCK)
        inside = k < last
        g = load(grad + n * g_n, k, g_d, inside, partial)
        cr = load(vr + n * vr_n, k, vr_d, inside, partial)
        cf = load(vf + n * vf_n, k, vf_d, inside, partial)
        x = a * cr + (1 - a) * cf + w * load(real + n * r_n, k, r_d, inside, partial)
        x -= w * load(fake + n * f_n, k, f_d, inside, partial)
        total += g * cr - g * cf
        tl.store(dgrad + n * d + k, x.to(dgrad.dtype.element_ty), inside)
        tl.store(dreal + n * d + k, (w * g).to(dreal.dtype.element_ty), inside)
        tl.store(dfake + n * d + k, (-w * g).to(dfake.dtype.element_ty), inside)
    tl.store(partial + n * parts + p, tl.sum(total, 0))


@triton.jit(do_not_specialize=_SIZES)
def _add(partial, dalpha, parts):
    n = tl.program_id(0).to(tl.int64)
    tl.store(dalpha + n, sum_parts(partial, n, parts))


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """x, (N, D), of real and fake, (N, D), and alpha, (N,)."""
    out = real.new_empty(real.shape)
    n, d = real.shape
    if real.numel():
        parts = parts_of(d)
        with on_device_of(real):
            _forward[(n * parts,)](
                real, fake, alpha, out, d, parts, alpha.stride(0), *real.stride(), *fake.stride(), **OPTIONS
            )
    return out


def interpolate_backward(grad: Tensor, real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of real, fake and alpha."""
    dreal, dfake, dalpha = real.new_empty(real.shape), real.new_empty(real.shape), alpha.new_empty(alpha.shape)
    n, d = real.shape
    if n:
        partial = partial_sums(real)
        parts = partial.shape[1]
        with on_device_of(real):
            _backward[(n * parts,)](
                grad, real, fake, alpha, dreal, dfake, partial, d, parts,
                *grad.stride(), alpha.stride(0), *real.stride(), *fake.stride(), **OPTIONS,
            )  # fmt: skip
            _add[(n,)](partial, dalpha, parts, **OPTIONS)
    return dreal, dfake, dalpha


def interpolate_double_backward(
    vr: Tensor, vf: Tensor, va: Tensor, grad: Tensor, real: Tensor, fake: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of <(Vr, Vf, va), (dr, df, da)> with respect to grad, real, fake and alpha."""
    dgrad, dreal, dfake = (real.new_empty(real.shape) for _ in range(3))
    dalpha = alpha.new_empty(alpha.shape)
    n, d = real.shape
    if n:
        partial = partial_sums(real)
        parts = partial.shape[1]
        with on_device_of(real):
            _double_backward[(n * parts,)](
                vr, vf, va, grad, real, fake, alpha, dgrad, dreal, dfake, partial, d, parts,
                *vr.stride(), *vf.stride(), va.stride(0), *grad.stride(), alpha.stride(0), *real.stride(),
                *fake.stride(), **OPTIONS,
            )  # fmt: skip
            _add[(n,)](partial, dalpha, parts, **OPTIONS)
    return dgrad, dreal, dfake, dalpha


def aot_specs() -> list[AotSpec]:
    """Every kernel in every dtype."""
    specs = []
    for dtype, name in NAMES.items():
        types = dict.fromkeys(("real", "fake", "grad", "vr", "vf", "out", "dgrad", "dreal", "dfake"), f"*{name}")
        types |= dict.fromkeys(("alpha", "va", "partial", "dalpha"), f"*{NAMES[accumulator(dtype)]}")
        wide = accumulator(dtype) == dtype  # `_add` sees sums alone: the half types launch float32's
        for kernel in (_forward, _backward, _double_backward, *((_add,) if wide else ())):
            signature = {a: types.get(a, "i32") for a in kernel.arg_names}
            row = f"{kernel.__name__.strip('_')} {name}"
            specs.append(AotSpec(row, kernel, signature, {}, may_spill=dtype == torch.float64, **OPTIONS))
    return specs
