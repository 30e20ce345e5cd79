"""Why the float32 filter never loses a pair: its slack, derived.

The search keeps, for each row, a float32 *point* a_i, and must keep every pair whose true distance may be tau or less.
Notation: u = 2^-24; c the centre and s the scale (a power of two); y_i = s (x_i - c) in exact arithmetic.

**The points.** Whole: a_i = y_i. Prefix of q directions: a_i = (Q_q^T y_i, t_i) with Q orthonormal, Q_q its first q
columns, t_i = sqrt(r_i^2 + kappa^2) and r_i the norm of the part of y_i outside Q_q. Both maps are 1-Lipschitz in y (t
is one in r, and r in that part), so

    |a_i - a_j| <= |y_i - y_j| = s |x_i - x_j|.                                                                   (1)

kappa is one constant for all rows: without it, the square root would magnify the error of r_i^2 where r_i is small.

**Computed points.** The computed a^_i is off by at most e_i in norm, so if s |x_i - x_j| <= T = s tau,

    |a^_i - a^_j|^2 <= (T + e_i + e_j)^2 <= (1 + m) T^2 + 2 (1 + 1/m) (e_i^2 + e_j^2)   for any m > 0.           (2)

The right side splits into a part for i and one for j: this is what lets a matrix product do the test.

**The test.** With h_i = |a^_i|^2 / 2, (2) says <a^_i, a^_j> - h_i - h_j >= -(1 + m) T^2 / 2 - (1 + 1/m)(e_i^2 + e_j^2).
A product summed in runs of at most `RUN` terms that are then added, fused or not, in any order within a run, errs by
at most g |a^_i| |a^_j| <= g (h_i + h_j), g = n u / (1 - n u), n = RUN + the number of runs. Adding the tail's product
and subtracting the two h adds at most 4 roundings of numbers no larger than 2 (h_i + h_j) + theta, and storing h in
float32 one of h. So the pair is kept if the computed value is at least -theta, where

    h'_i = h_i (1 - beta) - (1 + 1/m) e_i^2 - tiny,   beta = (n + 16) u (1 + 2^-6),
    theta = (1 + m) T^2 / 2 * (1 + 2^-20).

theta is rounded up, h' down; `tiny` covers underflow (values below 2^-126 may be lost: at most 2^-100 in all, as
points have norms below 2^40 and at most 2^20 coordinates; rows beyond 2^40 never enter the filter). Before the square
root, D = tau^2 is raised by (d + 1) 2^-1070: what underflow can take from a float64 sum of squares.

**e_i.** Rounding y_i to float32: u |y_i| (1 + 2^-20), which includes the float64 arithmetic before it. Features: a
product of d terms in runs errs by g |w_i| |q_c| in each, over m directions g sqrt(m) |w_i| (1 + eta), where eta =
|Q^T Q - I|_F measured in float64; and the computed Q lies within eta of an orthonormal one (its polar factor). So

    e^p_i = |y_i| (g sqrt(m) (1 + eta) + eta + 2 u) (1 + 2^-10).

The tail comes from squared norms: t_i^2 = |y_i|^2 + kappa^2 - |Q_q^T y_i|^2, computed in float64 with an error of
at most delta_i = 2 |y_i| e^p_i + (e^p_i)^2 + 2^-40 |y_i|^2, so t^_i errs by at most delta_i / (t^_i + kappa) + u t^_i.

**On a GPU** points are float16, whose products are exact in float32. What rounding to float16 takes from each point is
*measured* in float64, and is its e_i (beside that of the short points above); coordinates below 2^-14 become zero, so
that no subnormal is left to the hardware. Matrix units add s products and a running sum (s = 4 to 32) after shifting
them to the largest exponent, and may cut each of the s + 2 numbers, the result included, to 24 bits without rounding:
at most (s + 2) 2u times the sum of magnitudes, which is at most 3 u a term. So a chain of `TENSOR_RUN` terms counts
as 4 roundings a term, which leaves a quarter to spare, and chains are added in plain float32. The projection's
float32 products count the same, in chains of `PROJECTED_RUN` terms that are added in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

U = 2.0**-24
#: m of the whole rows, whose points are nearly exact, and of prefixes: what (1 + 1/m) e^2 loses, m T^2 / 2 must not.
WHOLE_MARGIN = 2.0**-10
PREFIX_MARGIN = 2.0**-6
#: As `run` in csrc/closest_pairs/core.h.
RUN = 128
#: Scaled rows with a larger norm are left to direct differences.
LARGEST = 2.0**40
#: The same for the GPU: terms of one accumulation, of the filter and of the projection; the norm that typical rows
#: get, and the largest one; and the least magnitude of a coordinate, below which float16 has subnormals, which some
#: matrix units take for zero.
TENSOR_RUN = 512
PROJECTED_RUN = 16
TENSOR_SCALE = 2.0**6
TENSOR_LARGEST = 2.0**14
SMALLEST = 2.0**-14
_TINY = 2.0**-90


def product_terms(k: int) -> int:
    """n of the product's error bound for k coordinates."""
    return min(k, RUN) + -(-k // RUN)


def gamma(terms: float) -> float:
    """The relative error of a product with that many roundings in a row."""
    return terms * U / (1 - terms * U)


def tensor_terms(k: int) -> int:
    """The same on a GPU's matrix units: a chain of `TENSOR_RUN` terms at four roundings each, see above."""
    return 4 * min(k, TENSOR_RUN) + -(-k // TENSOR_RUN)


def half_norms(squares: Tensor, error: Tensor, terms: int, margin: float) -> Tensor:
    """h' in float32, rounded down, from float64 |a^|^2 and e, for a product with that many roundings."""
    beta = (terms + 16) * U * (1 + 2.0**-6)
    h = 0.5 * squares * (1 - beta) - (1 + 1 / margin) * error.square() - _TINY
    return round_down(h)


def round_down(h: Tensor) -> Tensor:
    """The largest float32 below each value, or the next one."""
    return torch.nextafter(h.float(), torch.tensor(-math.inf, device=h.device))


def whole(norms: Tensor, d: int) -> Tensor:
    """h' of whole rows from float64 |y|^2."""
    error = U * (1 + 2.0**-20) * norms.sqrt() + 2.0**-100
    return half_norms(norms * (1 - 3 * U), error, product_terms(d), WHOLE_MARGIN)


def projection_error(norms: Tensor, terms: int, m: int, eta: float) -> Tensor:
    """e^p of each row, for products with that many roundings."""
    relative = gamma(terms) * math.sqrt(m) * (1 + eta) + eta + 2 * U
    return norms.sqrt() * relative * (1 + 2.0**-10) + 2.0**-100


def tail_scale(norms: Tensor) -> float:
    """kappa."""
    return float(norms.median().sqrt()) / 16 or 1.0


def tail(squares: Tensor, norms: Tensor, error: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """t^ in float32 and e of the whole point, from |Q_q^T y|^2, |y|^2 and e^p."""
    delta = 2 * norms.sqrt() * error + error.square() + 2.0**-40 * norms
    t = ((norms - squares).clamp_min(0) + kappa**2).sqrt().float()
    return t, error + delta / (t.double() + kappa) + U * t.double()


def prefixes(features: Tensor, norms: Tensor, ends: list[int], d: int, eta: float) -> tuple[Tensor, Tensor]:
    """h' (N,) and the tails (len(ends), N), both float32, of points with `ends` leading features and a tail each."""
    kappa = tail_scale(norms)
    error = projection_error(norms, product_terms(d), features.shape[1], eta)
    squares, begin, tails, halves = torch.zeros_like(norms), 0, [], []
    for end in ends:
        squares = squares + features[:, begin:end].double().square().sum(1)
        begin = end
        t, whole_error = tail(squares, norms, error, kappa)
        halves.append(half_norms(squares + t.double().square(), whole_error, product_terms(end + 1), PREFIX_MARGIN))
        tails.append(t)
    return torch.stack(halves).amin(0), torch.stack(tails)


def short_points(features: Tensor, norms: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Float16 points (N, m + 1) of m features and a tail, and h' (N,), as `tensor_points` has them of whole rows."""
    squares = features.double().square().sum(1)
    error = projection_error(norms, 4 * PROJECTED_RUN + 2, features.shape[1], eta)
    t, error = tail(squares, norms, error, tail_scale(norms))
    exact = torch.cat((features, t[:, None]), 1)
    points = torch.where(exact.abs() >= SMALLEST, exact, 0).half()
    rest = (points.double() - exact.double()).square().sum(1)
    return points, tensor_half(points.double().square().sum(1), rest, error, exact.shape[1])


def tensor_half(squares: Tensor, rest: Tensor, error: Tensor, k: int) -> Tensor:
    """h' of float16 points from their squared norms and those of what the rounding to float16 took, measured."""
    error = error + rest.sqrt() * (1 + 2.0**-20)
    return half_norms(squares, error, tensor_terms(k), PREFIX_MARGIN)


def threshold(squared: Tensor, scale: float, margin: float, d: int) -> Tensor:
    """theta in float64 for float64 tau^2; never so large that a row left out (h' the largest float32) would pass."""
    t = scale * (squared + (d + 1) * 2.0**-1070).sqrt()
    return (0.5 * (1 + margin) * (1 + 2.0**-20) * t * t).clamp_max(2.0**100)


def limits(half: Tensor, theta: Tensor) -> Tensor:
    """h' - theta in float32, rounded down: with it in place of h' a pair is kept where the computed value is >= 0."""
    far = half == torch.finfo(torch.float32).max
    return torch.where(far, half, round_down(half.double() - theta * (1 + 2.0**-20)))
