"""Per-sample norms of gradients, and what a gradient penalty charges for them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gankern.backend import pick
from gankern.ops import _checks, _rows
from gankern.ops._apply import apply
from gankern.ops.norm_penalty.op import KINDS, NormPenaltyFunction


class NormPenalty(NamedTuple):
    """Per sample: what it is charged, (N,), and the norm of its gradient, (N,), which carries no gradient itself."""

    value: Tensor
    norm: Tensor


def norm_penalty(g: Tensor, kind: str = "two-sided", target: float = 1.0) -> NormPenalty:
    """h(|g_i|) for each sample i, |g_i| the Euclidean norm over all axes but the first.

    "two-sided": h = (|g_i| - target)^2 (Gulrajani et al. 2017); "one-sided": h = max(0, |g_i| - target)^2 (Petzka
    et al. 2018); "zero-centered": h = |g_i|^2 (Mescheder et al. 2018). One pass over g at each order; sums in float32
    at least, in a fixed order. Differentiable twice, a third order raises NotImplementedError. Where |g_i| = 0 the
    gradient of the norm is 0, never NaN.

    Args:
        g: (N, ...), float64, float32, bfloat16 or float16, any rank from 1 and any strides.
        kind: one of the three.
        target: the norm that is charged nothing; without effect for "zero-centered".

    Returns:
        `NormPenalty(value, norm)`, each (N,), float64 for a float64 g, else float32. Only `value` is differentiable.

    Raises:
        TypeError: g is not a dense floating-point tensor, or target not a number.
        ValueError: g has no axis of samples, or kind is unknown.
        RuntimeError: a forced backend cannot run it (see `gankern.backend`).
    """
    g = _checks.floating("norm_penalty", "g", g)
    if g.dim() < 1:
        raise ValueError(f"norm_penalty: g must have shape (N, ...), got {tuple(g.shape)}")
    if kind not in KINDS:
        raise ValueError(f"norm_penalty: kind must be one of {', '.join(KINDS)}; got {kind!r}")
    if isinstance(target, bool) or not isinstance(target, int | float):
        raise TypeError(f"norm_penalty: target must be a number, got {type(target).__name__}")
    rows = _rows.to_rows(g, _rows.memory_order(g))
    value, norm = apply(NormPenaltyFunction, rows, KINDS.index(kind), float(target), pick("norm_penalty", g))
    return NormPenalty(value, norm)
