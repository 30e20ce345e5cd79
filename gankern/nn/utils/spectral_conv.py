"""The operator norm of a convolution, by power iteration with the convolution itself and its adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from gankern.ops import _checks

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class ConvSpectralNorm(nn.Module):
    """Divides a convolution's weight by the norm of the linear map x -> conv(x) on inputs of one size.

    Attributes:
        _u: estimate of the left singular vector, (1, out_channels, *output size).
        _v: estimate of the right singular vector, (1, in_channels, *input size).
    """

    _u: Tensor
    _v: Tensor

    def __init__(
        self, module: nn.Module, weight: Tensor, n_power_iterations: int, eps: float, input_size: Sequence[int] | None
    ) -> None:
        super().__init__()
        if not isinstance(module, (*_PLAIN, *_TRANSPOSED)):
            raise TypeError(f'spectral_norm: norm="conv" needs a convolution, got {type(module).__name__}')
        weight = _checks.floating("spectral_norm", "weight", weight)
        axes = weight.dim() - 2
        _checks.positive("spectral_norm", "n_power_iterations", n_power_iterations)
        if module.padding_mode != "zeros":
            raise ValueError(f'spectral_norm: norm="conv" needs padding_mode="zeros", got {module.padding_mode!r}')
        size = _check_size(input_size, axes)
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        self.transposed = isinstance(module, _TRANSPOSED)
        self.stride, self.dilation = list(module.stride), list(module.dilation)
        self.groups = module.groups
        # A plain convolution pads first, which covers padding="same"; a transposed one pads within.
        self.pads = [0] * (2 * axes) if self.transposed else list(module._reversed_padding_repeated_twice)
        self.padding: list[int] = list(module.padding) if self.transposed else [0] * axes  # type: ignore[arg-type]
        self.output_padding = list(module.output_padding)
        with torch.no_grad():
            x = weight.detach()
            v = x.new_empty(1, module.in_channels, *size).normal_(0, 1)
            u = torch.empty_like(self._apply_to(v, x), dtype=x.dtype).normal_(0, 1)
            self.register_buffer("_u", self._unit(u))
            self.register_buffer("_v", self._unit(v))
            self._iterate(x, 15)

    def _convolution(self) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
        return self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups

    def _apply_to(self, v: Tensor, weight: Tensor) -> Tensor:
        return torch.ops.aten.convolution(functional.pad(v, self.pads), weight, None, *self._convolution())

    def _adjoint(self, u: Tensor, v: Tensor, weight: Tensor) -> Tensor:
        padded = functional.pad(v, self.pads)
        backward = torch.ops.aten.convolution_backward
        x = backward(u, padded, weight, None, *self._convolution(), [True, False, False])[0]
        return functional.pad(x, [-n for n in self.pads])

    def _unit(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dtype=torch.float32 if _half(x) else None).clamp_min(self.eps).to(
            x.dtype
        )

    def _iterate(self, weight: Tensor, iterations: int) -> None:
        with torch.no_grad():
            weight = weight.float() if _half(weight) else weight
            u, v = self._u.to(weight.dtype), self._v.to(weight.dtype)
            for _ in range(iterations):
                u = self._unit(self._apply_to(v, weight))
                v = self._unit(self._adjoint(u, v, weight))
            self._u.copy_(u)
            self._v.copy_(v)

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight."""
        cast = _checks.autocast(weight)
        with torch.autocast(weight.device.type, enabled=False) if cast else nullcontext():
            if self.training:
                self._iterate(weight, self.n_power_iterations)
            w = weight.float() if _half(weight) else weight
            u, v = self._u.to(w.dtype, copy=True), self._v.to(w.dtype, copy=True)
            return (w / (u * self._apply_to(v, w)).sum()).to(weight.dtype)

    def right_inverse(self, value: Tensor) -> Tensor:
        """The value itself: an assigned weight becomes the original."""
        return value

    def extra_repr(self) -> str:
        """Sizes and iterations."""
        return f"input_size={tuple(self._v.shape[2:])}, n_power_iterations={self.n_power_iterations}, eps={self.eps}"


def _check_size(size: object, axes: int) -> tuple[int, ...]:
    if size is None:
        raise ValueError(f'spectral_norm: norm="conv" needs input_size of {axes} positive sizes, got None')
    found = tuple(size) if isinstance(size, Sequence) else ()
    if not isinstance(size, Sequence) or any(isinstance(n, bool) or not isinstance(n, int) for n in found):
        raise TypeError(f"spectral_norm: input_size must be a sequence of {axes} ints, got {size!r}")
    if len(found) != axes or any(n < 1 for n in found):
        raise ValueError(f'spectral_norm: norm="conv" needs input_size of {axes} positive sizes, got {found}')
    return found


def _half(x: Tensor) -> bool:
    return x.dtype in (torch.float16, torch.bfloat16)
