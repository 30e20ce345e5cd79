"""Minibatch discrimination as a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gankern.ops import _checks
from gankern.ops.minibatch_l1 import minibatch_l1

_INITS = ("normal", "salimans")


class MinibatchDiscrimination(nn.Module):
    """Lets a critic look at a whole batch at once (Salimans et al. 2016, section 3.2).

    Projects each sample x_i to B rows of dimension C, M_i = x_i T, and appends to x_i how close its rows are to the
    other samples': o_ib = sum_{j != i} exp(-sum_c |M_ibc - M_jbc|). Differentiable twice, so it can stand in a
    critic with a gradient penalty; memory O(N B C).

    Args:
        in_features: A, the length of a sample.
        num_kernels: B, how many features are appended.
        kernel_dim: C, the dimension of each kernel.
        include_self: adds the self term, exactly 1, as some implementations do.
        init: "normal" draws T from N(0, 1). "salimans" draws T from N(0, 0.05) and scales each kernel's slice
            T[:, b, :] to the common norm sqrt(in_features * kernel_dim) * 0.05, so that distances start comparable.

    Shape:
        input (N, in_features), output (N, in_features + num_kernels): the input and o(x), concatenated. On the meta
        device the result is a meta tensor. Under autocast the projection runs in the autocast dtype, the pairwise
        sums in float32.

    Attributes:
        T: the parameter, (in_features, num_kernels, kernel_dim). There is no bias.

    Raises:
        ValueError: a size below 1, an unknown init, or an input that is not (N, in_features) on T's device.
        TypeError: a size is not an int, include_self is not a bool, or the input is not a floating-point tensor of
            T's dtype.
    """

    T: Tensor

    def __init__(
        self,
        in_features: int,
        num_kernels: int,
        kernel_dim: int,
        include_self: bool = False,
        init: str = "normal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_features = _checks.positive("MinibatchDiscrimination", "in_features", in_features)
        num_kernels = _checks.positive("MinibatchDiscrimination", "num_kernels", num_kernels)
        kernel_dim = _checks.positive("MinibatchDiscrimination", "kernel_dim", kernel_dim)
        include_self = _checks.boolean("MinibatchDiscrimination", "include_self", include_self)
        if init not in _INITS:
            raise ValueError(f"MinibatchDiscrimination: init must be one of {', '.join(_INITS)}; got {init!r}")
        self.in_features = in_features
        self.num_kernels = num_kernels
        self.kernel_dim = kernel_dim
        self.include_self = include_self
        self.init = init
        self.T = nn.Parameter(torch.empty(in_features, num_kernels, kernel_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws T anew."""
        with torch.no_grad():
            if self.init == "normal":
                self.T.normal_()
                return
            self.T.normal_(0.0, 0.05)
            exact = torch.promote_types(self.T.dtype, torch.float32)
            norm = self.T.to(exact).square().sum((0, 2), keepdim=True).sqrt()
            self.T.mul_((0.05 * (self.in_features * self.kernel_dim) ** 0.5 / norm).to(self.T.dtype))

    def forward(self, input: Tensor) -> Tensor:
        """Input and o(input), (N, in_features + num_kernels)."""
        _checks.floating("MinibatchDiscrimination", "input", input)
        if input.dim() != 2 or input.shape[1] != self.in_features:
            raise ValueError(
                f"MinibatchDiscrimination: input must have shape (N, {self.in_features}), got {tuple(input.shape)}"
            )
        if input.device != self.T.device and input.device.type != "meta":
            raise ValueError(f"MinibatchDiscrimination: input must be on {self.T.device}, as T is, got {input.device}")
        # Autocast takes any two of float32 and the half types, and never float64.
        mixed = _checks.autocast(input) and torch.float64 not in (input.dtype, self.T.dtype)
        if input.dtype != self.T.dtype and not mixed:
            raise TypeError(f"MinibatchDiscrimination: input must be {self.T.dtype}, as T is, got {input.dtype}")
        m = input @ self.T.flatten(1)
        o = minibatch_l1(m.unflatten(1, (self.num_kernels, self.kernel_dim)), self.include_self)
        return torch.cat([input.to(o.dtype), o], 1)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"in_features={self.in_features}, num_kernels={self.num_kernels}, kernel_dim={self.kernel_dim}, "
            f"include_self={self.include_self}, init={self.init!r}"
        )
