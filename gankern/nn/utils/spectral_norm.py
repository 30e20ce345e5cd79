"""Spectral normalisation of one module's weight, as a parametrization with torch's names and numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from gankern.nn._patch import own_class
from gankern.nn.utils.spectral_conv import ConvSpectralNorm
from gankern.ops import _checks
from gankern.ops.spectral_norm.group import advance, iterate
from gankern.ops.spectral_norm.reference import sizes

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Handed:
    """Where a group leaves a weight that it has normalised, for the layer to take once."""

    def __init__(self) -> None:
        self.entry: tuple[Tensor, Tensor, int | None] | None = None

    def put(self, weight: Tensor, normalized: Tensor) -> None:
        """Leaves what became of a weight as it is now."""
        self.entry = (weight, normalized, _version(weight))

    def take(self, weight: Tensor) -> tuple[Tensor | None, bool]:
        """The normalised weight, if it was not taken, belongs to this weight as it is now, and has the graph it needs.

        And whether its power iteration is done, so that only the graph is missing.
        """
        entry, self.entry = self.entry, None
        if entry is None or entry[0] is not weight or entry[2] != _version(weight):
            return None, False
        normalized = entry[1]
        if not torch.is_grad_enabled():
            return normalized.detach(), True
        return (None, True) if weight.requires_grad and not normalized.requires_grad else (normalized, True)


def _version(x: Tensor) -> int | None:
    return None if torch.compiler.is_compiling() or x.is_inference() else x._version


class SpectralNorm(nn.Module):
    """Divides a weight by its largest singular value; each access in training mode iterates, as in torch.

    Attributes:
        _u: estimate of the left singular vector; named as torch names it, for the state_dict.
        _v: estimate of the right singular vector.
        iterates: whether an access in training mode runs power iterations; a group with update="step" clears it.
        handed: see `Handed`.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        weight = _checks.floating("spectral_norm", "weight", weight)
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise TypeError(f"spectral_norm: dim must be an int, got {type(dim).__name__}")
        if not -weight.dim() <= dim < weight.dim():
            raise IndexError(
                f"spectral_norm: dim must be in [{-weight.dim()}, {weight.dim() - 1}] for a weight of shape "
                f"{tuple(weight.shape)}, got {dim}"
            )
        _checks.positive("spectral_norm", "n_power_iterations", n_power_iterations)
        self.dim = dim % weight.dim()
        self.eps = eps
        self.n_power_iterations = n_power_iterations
        self.iterates = True
        self.handed = Handed()
        if weight.dim() == 1:  # its norm is exact
            return
        for name, length in zip(("_u", "_v"), sizes([weight], [self.dim]), strict=True):
            start = weight.detach().new_empty(length).normal_(0, 1)
            self.register_buffer(name, functional.normalize(start, dim=0, eps=eps))
        iterate([weight.detach()], [self._u], [self._v], [self.dim], 15, eps)

    @property
    def iterations(self) -> int:
        """How many power iterations an access runs now."""
        return self.n_power_iterations if self.training and self.iterates else 0

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight."""
        if weight.dim() == 1:
            return functional.normalize(weight, dim=0, eps=self.eps)
        handed, advanced = self.handed.take(weight)
        if handed is not None:
            return handed
        n = 0 if advanced else self.iterations
        u, v = self._buffers["_u"], self._buffers["_v"]
        return advance([weight], [u], [v], [self.dim], n, self.eps)[0][0]  # type: ignore[list-item]

    def right_inverse(self, value: Tensor) -> Tensor:
        """The value itself: an assigned weight becomes the original, as in torch."""
        return value

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"dim={self.dim}, n_power_iterations={self.n_power_iterations}, eps={self.eps}"


def default_dim(module: nn.Module) -> int:
    """The axis of the outputs, as torch chooses it: 1 for transposed convolutions, else 0."""
    return 1 if isinstance(module, _TRANSPOSED) else 0


def spectral_norm(
    module: nn.Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    *,
    norm: str = "matrix",
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Spectral normalisation of a weight: `torch.nn.utils.parametrizations.spectral_norm`, with fused kernels.

    The same numbers, the same `parametrizations.<name>.original` and `parametrizations.<name>.0._u`, `_v` in the
    state_dict, so that checkpoints go both ways. Each access of the weight in training mode runs the power
    iterations; in evaluation mode there are none, and gradients still reach the original. u and v are never changed
    in place before a backward that needs them, so any number of forwards may precede it. Half weights are computed
    in float32, under autocast as without. A vector is divided by its norm. Complex weights, which torch's takes, are
    refused.

    Args:
        module: any module; changed in place.
        name: its parameter or buffer.
        n_power_iterations: per access in training mode.
        eps: keeps the norms away from zero.
        dim: the axis of outputs. Default: 0, but 1 for transposed convolutions.
        norm: "matrix" flattens the weight to a matrix (Miyato et al. 2018). "conv" takes a convolution as the linear
            map that it is, with its padding, stride, dilation and groups, on inputs of `input_size`: the exact
            Lipschitz constant of the layer. Its vectors have the shapes of an output and an input, and u and v in the
            state_dict with them.
        input_size: height and width (or as many sizes as the convolution has axes) for norm="conv".

    Returns:
        The module.

    Raises:
        TypeError: no module; the weight is not a real floating-point tensor; n_power_iterations or dim is not an int,
            or input_size no sequence of ints; norm="conv" of another module than a convolution.
        ValueError: there is no such parameter, n_power_iterations < 1, an unknown norm, a missing or wrong
            input_size, or padding other than zeros with norm="conv".
        IndexError: dim is out of range.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"spectral_norm: module must be a torch.nn.Module, got {type(module).__name__}")
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"spectral_norm: {type(module).__name__} has no parameter or buffer {name!r}")
    parametrization: nn.Module
    if norm == "matrix":
        if input_size is not None:
            raise ValueError('spectral_norm: input_size belongs to norm="conv"')
        parametrization = SpectralNorm(weight, n_power_iterations, default_dim(module) if dim is None else dim, eps)
    elif norm == "conv":
        if name != "weight" or dim is not None:
            raise ValueError('spectral_norm: norm="conv" takes name="weight" and no dim')
        parametrization = ConvSpectralNorm(module, weight, n_power_iterations, eps, input_size)
    else:
        raise ValueError(f'spectral_norm: norm must be "matrix" or "conv", got {norm!r}')
    parametrize.register_parametrization(module, name, parametrization)
    return module


def remove_spectral_norm(module: nn.Module, name: str = "weight") -> nn.Module:
    """Removes a spectral normalisation and leaves the normalised weight in place of the original.

    In training mode this last access iterates once more, as torch's does.

    Raises:
        ValueError: the parameter has no spectral normalisation of this package, or others beside it.
    """
    found = getattr(module, "parametrizations", {})
    entries = list(found[name]) if parametrize.is_parametrized(module, name) else []
    if not any(isinstance(entry, (SpectralNorm, ConvSpectralNorm)) for entry in entries):
        raise ValueError(f"remove_spectral_norm: {name!r} of {type(module).__name__} is not spectrally normalised")
    if len(entries) > 1:
        raise ValueError(
            f"remove_spectral_norm: {name!r} of {type(module).__name__} has {len(entries)} parametrizations; "
            "torch.nn.utils.parametrize.remove_parametrizations removes all of them"
        )
    module.__class__ = own_class(module, type(module).__bases__[0])  # torch deletes the property from the class
    return parametrize.remove_parametrizations(module, name, leave_parametrized=True)
