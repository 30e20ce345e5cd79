"""Spectral normalisation: power iteration, sigma and W / sigma of one matrix, or of all weights of a model at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gankern.ops.spectral_norm.group import run


def spectral_norm(
    weight: Tensor, u: Tensor, v: Tensor, n_power_iterations: int = 1, eps: float = 1e-12
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Divides a matrix by its largest singular value, as power iteration estimates it (Miyato et al. 2018).

    Each iteration sets u = W v / max(|W v|, eps), then v = W^T u / max(|W^T u|, eps); sigma = u . (W v) follows: the
    numbers of `torch.nn.utils.parametrizations.spectral_norm`. W is read once per iteration and once to divide it.
    Nothing is changed in place: keep the u and v that come back. They are constants of the derivatives, so that
    d sigma / dW = u v^T. Differentiable twice in weight; a third order raises NotImplementedError. Results are
    bitwise repeatable for any number of threads.

    Args:
        weight: W, (h, w), float64, float32, bfloat16 or float16, any strides. Half types are computed in float32.
        u: (h,), an estimate of the left singular vector; of weight's dtype, or float32 for a half weight.
        v: (w,), an estimate of the right one.
        n_power_iterations: 0 takes u and v as they are, as in evaluation.
        eps: keeps the norms away from zero.

    Returns:
        W / sigma, of weight's shape and dtype; u, v and sigma (0-d), in float32 for a half weight. Of a zero matrix
        W / sigma is NaN, as torch's.

    Raises:
        TypeError: an argument of another type, or tensors of different dtypes or devices.
        ValueError: a wrong shape, or n_power_iterations < 0.
        RuntimeError: a forced backend cannot run it (see `gankern.backend`).
    """
    normalized, us, vs, sigma = run("spectral_norm", [weight], [u], [v], None, n_power_iterations, eps)
    return normalized[0], us[0], vs[0], sigma[0]


def spectral_norm_group(
    weights: Sequence[Tensor],
    u: Sequence[Tensor],
    v: Sequence[Tensor],
    dims: Sequence[int] | None = None,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """`spectral_norm` of many weights of any shapes in one call, in one autograd node.

    Args:
        weights: at least one tensor of one or more dimensions, all of one dtype and device.
        u: for each weight a tensor of the length of its axis `dim`.
        v: for each weight a tensor of the length of its other axes together, flattened in their order.
        dims: for each weight the axis of W's rows; the others are flattened to its columns. Default: 0 for all.
        n_power_iterations: see `spectral_norm`.
        eps: see `spectral_norm`.

    Returns:
        The normalised weights, in their shapes and memory formats; all u; all v; each sigma, (L,).

    Raises:
        As `spectral_norm`; and ValueError for lists of different lengths or none.
    """
    return run("spectral_norm_group", weights, u, v, dims, n_power_iterations, eps)
