"""Random points between real and generated samples."""

from __future__ import annotations

import torch
from torch import Tensor

from gankern.backend import pick
from gankern.ops import _checks, _rows
from gankern.ops._apply import apply
from gankern.ops.interpolate.op import Interpolate

_OP = "interpolate"


def interpolate(
    real: Tensor, fake: Tensor, alpha: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """alpha_i * real_i + (1 - alpha_i) * fake_i for each sample i (Gulrajani et al. 2017), in one pass.

    Differentiable twice in real, fake and alpha; a third order raises NotImplementedError. Half types are computed
    in float32 and rounded once.

    Args:
        real: (N, ...), float64, float32, bfloat16 or float16, any rank from 1 and any strides.
        fake: of real's shape, dtype and device.
        alpha: (N,) or (N, 1, ..., 1), one number per sample; drawn uniformly from [0, 1) by
            `torch.rand((N,), device=real.device, generator=generator)` if not given.
        generator: draws alpha, so that it can be reproduced.

    Returns:
        A tensor of real's shape and dtype, in real's memory format where real is dense.

    Raises:
        TypeError: an argument is not a dense floating-point tensor, or dtypes differ.
        ValueError: shapes or devices differ, alpha is not one number per sample, or both alpha and generator came.
        RuntimeError: a forced backend cannot run it (see `gankern.backend`).
    """
    real, fake = _checks.floating(_OP, "real", real), _checks.floating(_OP, "fake", fake)
    if real.dim() < 1 or real.shape != fake.shape:
        raise ValueError(
            f"{_OP}: real and fake must have one shape (N, ...), got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if real.dtype != fake.dtype:
        raise TypeError(f"{_OP}: real and fake must have one dtype, got {real.dtype} and {fake.dtype}")
    if real.device != fake.device:
        raise ValueError(f"{_OP}: real and fake must be on one device, got {real.device} and {fake.device}")
    n = real.shape[0]
    if alpha is None:
        alpha = torch.rand((n,), device=real.device, generator=generator)
    else:
        alpha = _checks.floating(_OP, "alpha", alpha)
        if generator is not None:
            raise ValueError(f"{_OP}: give alpha or generator, not both: the generator only draws alpha")
        if alpha.shape not in ((n,), (n, *[1] * (real.dim() - 1))):
            raise ValueError(
                f"{_OP}: alpha must have shape ({n},) or ({n}, 1, ...), one number per sample, got {tuple(alpha.shape)}"
            )
        if alpha.device != real.device:
            raise ValueError(f"{_OP}: alpha must be on real's device, {real.device}, got {alpha.device}")
    return mixed(real, fake, alpha)


def mixed(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """`interpolate` of arguments that were checked."""
    alpha = alpha.reshape(-1).to(torch.float64 if real.dtype == torch.float64 else torch.float32)
    order = _rows.memory_order(real)
    rows = apply(Interpolate, _rows.to_rows(real, order), _rows.to_rows(fake, order), alpha, pick(_OP, real))
    return _rows.from_rows(rows, real, order)
