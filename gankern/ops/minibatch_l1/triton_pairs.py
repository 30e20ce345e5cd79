"""The arithmetic of pairs of rows, on the packed inputs of triton_kernels.py: lanes are rows j, fields are tuples."""

from __future__ import annotations

import triton
import triton.language as tl

# Rows of a packed tile, and lanes of a warp.
TILE = tl.constexpr(32)
# Channels that a distance over too many of them takes at once; the packed channels are padded to it.
CHUNK = tl.constexpr(16)


@triton.jit
def load_fields(p, COUNT: tl.constexpr):
    loaded = ()
    for c in tl.static_range(COUNT):
        loaded = loaded + (tl.load(p + c * TILE),)
    return loaded


@triton.jit
def sign(x):
    # -1, 0 or 1; never NaN, so that a NaN weight times it is NaN for every channel. In float32 two instructions: a
    # comparison that gives 1.0 or 0.0, and one bit operation that moves the sign bit in.
    if x.dtype == tl.float64:
        return (x > 0).to(tl.float64) - (x < 0).to(tl.float64)
    else:
        one = (x != 0).to(tl.float32).to(tl.int32, bitcast=True)
        return ((x.to(tl.int32, bitcast=True) & -2147483648) | one).to(tl.float32, bitcast=True)


@triton.jit
def distance(a, b, COUNT: tl.constexpr):
    d = tl.abs(a[0] - b[0])
    for c in tl.static_range(1, COUNT):
        d += tl.abs(a[c] - b[c])
    return d


@triton.jit
def far_distances(zero, pi, pj, channels, step, SPAN: tl.constexpr):
    d = ()
    for _ in tl.static_range(SPAN):
        d = d + (zero,)
    for c in range(0, channels, CHUNK):
        a = load_fields(pi + c * TILE, CHUNK)
        more = ()
        for u in tl.static_range(SPAN):
            b = load_fields(pj + u * step + c * TILE, CHUNK)
            more = more + (d[u] + distance(a, b, CHUNK),)
        d = more
    return d


@triton.jit
def exp_negative(d):
    # exp2 is one instruction on a GPU, but flushes results below 2^-126 to zero; the square of exp(-d/2) does not.
    if d.dtype == tl.float64:
        return tl.exp(-d)
    else:
        root = tl.exp2(d * -0.7213475204444817)
        return root * root


@triton.jit
def dot_sign(a, b, va, vb, COUNT: tl.constexpr):
    q = (va[0] - vb[0]) * sign(a[0] - b[0])
    for c in tl.static_range(1, COUNT):
        q += (va[c] - vb[c]) * sign(a[c] - b[c])
    return q


@triton.jit
def far_distance_and_dot(zero, pi, pj, channels):
    d, q = zero, zero
    for c in range(0, channels, CHUNK):
        a, b = load_fields(pi + c * TILE, CHUNK), load_fields(pj + c * TILE, CHUNK)
        va, vb = load_fields(pi + (channels + c) * TILE, CHUNK), load_fields(pj + (channels + c) * TILE, CHUNK)
        d += distance(a, b, CHUNK)
        q += dot_sign(a, b, va, vb, CHUNK)
    return d, q


@triton.jit
def others(x, i, j, n):
    # Not the row itself, and no row beyond the last.
    return tl.where((i != j) & (j < n), x, 0.0)
