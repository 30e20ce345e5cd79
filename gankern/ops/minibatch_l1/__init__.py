"""Minibatch discrimination by pairwise L1 kernels, in O(N B C) memory."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern.backend import pick
from gankern.ops import _checks
from gankern.ops.minibatch_l1.op import MinibatchL1


def minibatch_l1(m: Tensor, include_self: bool = False) -> Tensor:
    """How close each sample is to the others of its batch: o_ib = sum_{j != i} exp(-sum_c |M_ibc - M_jbc|).

    The pairwise sums of minibatch discrimination (Salimans et al. 2016, section 3.2), without an (N, N, B, C)
    tensor: memory is O(N B C) at every order, because every order recomputes from m. Differentiable twice; a third
    order raises NotImplementedError. vmap and forward-mode derivatives are not supported. The sum is bitwise
    repeatable for any number of threads.

    Args:
        m: (N, B, C), float64, float32, bfloat16 or float16, any strides: N samples, B kernels of dimension C.
            Half types are computed and accumulated in float32. Under autocast a half m is taken in float32 and the
            result is float32, as torch.cdist does.
        include_self: adds the pair (i, i), which is exactly 1, as some implementations do.

    Returns:
        o, (N, B), of m's dtype.

    Raises:
        TypeError: m is not a dense floating-point tensor, or include_self is not a bool.
        ValueError: m is not three-dimensional.
        RuntimeError: a forced backend cannot run it (see `gankern.backend`).
    """
    m = _checks.floating("minibatch_l1", "m", m)
    _checks.rank("minibatch_l1", "m", m, "(N, B, C)")
    include_self = _checks.boolean("minibatch_l1", "include_self", include_self)
    if m.dtype in (torch.float16, torch.bfloat16) and _checks.autocast(m):
        m = m.float()
    return MinibatchL1.apply(m, include_self, pick("minibatch_l1", m))
