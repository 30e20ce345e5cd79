"""torch.nn.functional's layers, for critics that are differentiated twice.

Same names, arguments, values and gradients as torch's. Only the second order differs: where it is identically zero,
as for every piecewise-linear activation, no gradient flows at all, where torch pushes dense zeros through the whole
network below (a third of a gradient penalty's time). Convolutions take their second-order weight gradients as plain
ones. Where torch would compute 0 * inf = NaN in such a place, the result here is finite.

`zero_aware()` applies all of them to any code, unchanged. Without gradients, under torch.compile, torch.func or
forward-mode differentiation, for tensor subclasses, and where hooks on saved tensors are in force, as within
`torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`, these functions are torch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from gankern.nn import _contraction, _piecewise, _resampling
from gankern.ops._apply import apply
from gankern.ops._checks import autocast

_aten = torch.ops.aten
_Ints = int | Sequence[int]

#: Types of tensors that torch's operators take as they are. Tracing adds fake tensors.
PLAIN: set[type] = {Tensor, torch.nn.Parameter}


def _ordinary(x: Tensor, *others: Tensor | None) -> bool:
    """Whether torch's own function must or may as well run."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return True
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    # Activation checkpointing recomputes in the backward, beyond `zero_aware()`, and must find what it saved here.
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
        return True
    given = [t for t in (x, *others) if t is not None]
    plain = all(type(t) in PLAIN and t.layout == torch.strided for t in given)
    return not plain or x.is_complex() or not any(t.requires_grad for t in given)


def _ordinary_map(x: Tensor) -> bool:
    """The same for pooling and padding, whose dtypes autocast rules in its own way on each device."""
    return _ordinary(x) or autocast(x)


def _tuple(value: _Ints, n: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What autocast makes of the operands of a convolution or product."""
    first = tensors[0]
    assert first is not None
    if not autocast(first):
        return tensors
    dtype = torch.get_autocast_dtype(first.device.type)

    def cast(t: Tensor | None) -> Tensor | None:
        return t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t

    return tuple(cast(t) for t in tensors)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`; large float32 products on the CPU run in oneDNN at every order."""
    if _ordinary(input, weight, bias) or autocast(input) or input.dim() < 2:
        return F.linear(input, weight, bias)
    if not _contraction.onednn_can(input, weight, bias):
        return F.linear(input, weight, bias)
    if input.dim() == 2:
        return apply(_contraction.MatrixProduct, input, weight, bias, True)
    rows = apply(_contraction.MatrixProduct, input.flatten(0, -2), weight, bias, True)
    return rows.unflatten(0, input.shape[:-1])


def _convolution(
    name: str,
    n: int,
    transposed: bool,
    operands: tuple[Tensor, Tensor, Tensor | None],
    stride: _Ints,
    padding: str | _Ints,
    dilation: _Ints,
    groups: int,
    output_padding: _Ints = 0,
) -> Tensor:
    x, weight, _ = operands
    if _ordinary(*operands) or x.dim() != n + 2 or weight.dim() != n + 2 or isinstance(padding, str):
        if isinstance(padding, str) and not _ordinary(*operands) and x.dim() == weight.dim() == n + 2:
            return _padded_by_name(name, n, operands, stride, padding, dilation, groups)
        tail = (output_padding, groups, dilation) if transposed else (dilation, groups)
        return getattr(F, name)(*operands, stride, padding, *tail)
    geometry = (
        _tuple(stride, n),
        _tuple(padding, n),
        _tuple(dilation, n),
        transposed,
        _tuple(output_padding, n),
        groups,
    )
    return apply(_contraction.Convolution, *_autocast(*operands), geometry)


def _padded_by_name(
    name: str,
    n: int,
    operands: tuple[Tensor, Tensor, Tensor | None],
    stride: _Ints,
    padding: str,
    dilation: _Ints,
    groups: int,
) -> Tensor:
    """Padding "valid" or "same": the odd element of "same" goes to the end, as torch puts it."""
    x, weight, bias = operands
    strides, dilations = _tuple(stride, n), _tuple(dilation, n)
    if padding not in ("valid", "same") or (padding == "same" and any(s != 1 for s in strides)):
        return getattr(F, name)(*operands, stride, padding, dilation, groups)  # raises torch's error
    total = [0] * n if padding == "valid" else [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
    odd = [t % 2 for t in total]
    if any(odd):
        x = F.pad(x, [width for o in reversed(odd) for width in (0, o)])
    even = tuple(t // 2 for t in total)
    return _convolution(name, n, False, (x, weight, bias), strides, even, dilations, groups)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Ints = 1,
    padding: str | _Ints = 0,
    dilation: _Ints = 1,
    groups: int = 1,
) -> Tensor:
    """As `torch.nn.functional.conv1d`."""
    return _convolution("conv1d", 1, False, (input, weight, bias), stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Ints = 1,
    padding: str | _Ints = 0,
    dilation: _Ints = 1,
    groups: int = 1,
) -> Tensor:
    """As `torch.nn.functional.conv2d`."""
    return _convolution("conv2d", 2, False, (input, weight, bias), stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Ints = 1,
    padding: str | _Ints = 0,
    dilation: _Ints = 1,
    groups: int = 1,
) -> Tensor:
    """As `torch.nn.functional.conv3d`."""
    return _convolution("conv3d", 3, False, (input, weight, bias), stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Ints = 1,
    padding: _Ints = 0,
    output_padding: _Ints = 0,
    groups: int = 1,
    dilation: _Ints = 1,
) -> Tensor:
    """As `torch.nn.functional.conv_transpose1d`."""
    operands = (input, weight, bias)
    return _convolution("conv_transpose1d", 1, True, operands, stride, padding, dilation, groups, output_padding)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Ints = 1,
    padding: _Ints = 0,
    output_padding: _Ints = 0,
    groups: int = 1,
    dilation: _Ints = 1,
) -> Tensor:
    """As `torch.nn.functional.conv_transpose2d`."""
    operands = (input, weight, bias)
    return _convolution("conv_transpose2d", 2, True, operands, stride, padding, dilation, groups, output_padding)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Ints = 1,
    padding: _Ints = 0,
    output_padding: _Ints = 0,
    groups: int = 1,
    dilation: _Ints = 1,
) -> Tensor:
    """As `torch.nn.functional.conv_transpose3d`."""
    operands = (input, weight, bias)
    return _convolution("conv_transpose3d", 3, True, operands, stride, padding, dilation, groups, output_padding)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """As `torch.nn.functional.relu`."""
    if _ordinary(input):
        return F.relu(input, inplace)
    return _piecewise.relu_(input) if inplace else _piecewise.relu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """As `torch.nn.functional.leaky_relu`."""
    if _ordinary(input) or (inplace and negative_slope <= 0):
        return F.leaky_relu(input, negative_slope, inplace)
    return (_piecewise.leaky_relu_ if inplace else _piecewise.leaky_relu)(input, float(negative_slope))


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """As `torch.nn.functional.prelu`."""
    if _ordinary(input, weight) or weight.dim() > 1:
        return F.prelu(input, weight)
    if weight.numel() != 1 and (input.dim() < 2 or input.shape[1] != weight.numel()):
        return F.prelu(input, weight)  # raises torch's error
    return _piecewise.prelu(input, weight.to(input.dtype))


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """As `torch.nn.functional.hardtanh`."""
    if _ordinary(input) or inplace or min_val > max_val:
        return F.hardtanh(input, min_val, max_val, inplace)
    return _piecewise.hardtanh(input, min_val, max_val)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """As `torch.nn.functional.relu6`."""
    return F.relu6(input, inplace) if _ordinary(input) or inplace else _piecewise.hardtanh(input, 0.0, 6.0)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """As `torch.nn.functional.threshold`."""
    if _ordinary(input) or inplace:
        return F.threshold(input, threshold, value, inplace)
    return _piecewise.threshold(input, threshold, value)


def absolute(input: Tensor) -> Tensor:
    """As `torch.abs`."""
    return torch.abs(input) if _ordinary(input) else _piecewise.absolute(input)


def avg_pool2d(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """As `torch.nn.functional.avg_pool2d`."""
    if _ordinary_map(input) or input.dim() != 4:
        return F.avg_pool2d(input, *args, **kwargs)
    return _resampling.avg_pool(2, input, *args, **kwargs)


def avg_pool3d(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """As `torch.nn.functional.avg_pool3d`."""
    if _ordinary_map(input) or input.dim() != 5:
        return F.avg_pool3d(input, *args, **kwargs)
    return _resampling.avg_pool(3, input, *args, **kwargs)


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """As `torch.nn.functional.adaptive_avg_pool2d`."""
    sizes = [output_size] * 2 if isinstance(output_size, int) else list(output_size)
    if _ordinary_map(input) or input.dim() != 4 or len(sizes) != 2 or sizes == [1, 1]:
        return F.adaptive_avg_pool2d(input, output_size)  # type: ignore[arg-type]  # to size 1 it is a mean, which has no zeros
    return _resampling.adaptive_avg_pool2d(input, [n or m for n, m in zip(sizes, input.shape[2:], strict=True)])


def max_pool2d(input: Tensor, *args: Any, return_indices: bool = False, **kwargs: Any) -> Any:
    """As `torch.nn.functional.max_pool2d`."""
    if _ordinary_map(input) or input.dim() != 4 or return_indices or len(args) > 5:
        return F.max_pool2d(input, *args, return_indices=return_indices, **kwargs)  # type: ignore[call-overload]
    return _resampling.max_pool(2, input, *args, **kwargs)


def max_pool3d(input: Tensor, *args: Any, return_indices: bool = False, **kwargs: Any) -> Any:
    """As `torch.nn.functional.max_pool3d`."""
    if _ordinary_map(input) or input.dim() != 5 or return_indices or len(args) > 5:
        return F.max_pool3d(input, *args, return_indices=return_indices, **kwargs)  # type: ignore[call-overload]
    return _resampling.max_pool(3, input, *args, **kwargs)


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """As `torch.nn.functional.pad`."""
    if _ordinary_map(input) or mode not in ("reflect", "replicate") or input.dim() != 2 + len(pad) // 2:
        return F.pad(input, pad, mode, value)
    return _resampling.pad(input, pad, mode)
