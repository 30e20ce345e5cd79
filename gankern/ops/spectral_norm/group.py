"""Checks, memory formats and the one call behind the public functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gankern.backend import operator, pick
from gankern.ops import _apply, _checks
from gankern.ops.spectral_norm.op import SpectralNorm
from gankern.ops.spectral_norm.reference import sizes


def run(
    op: str,
    weights: Sequence[Tensor],
    u: Sequence[Tensor],
    v: Sequence[Tensor],
    dims: Sequence[int] | None,
    n_power_iterations: int,
    eps: float,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """Checks the arguments and runs them; `op` is the public function's name, for the messages."""
    axes = _check(op, weights, u, v, dims, n_power_iterations, eps)
    return evaluate(list(weights), list(u), list(v), axes, n_power_iterations, eps)


def evaluate(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n: int, eps: float
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """As `spectral_norm_group`, for arguments known to be right."""
    plain = _Plain(weights, v, dims)
    results = plain.apply(u, n, eps)
    new_u, new_v = plain.vectors(results[-2])
    return plain.normalized(results[:-2]), new_u, new_v, results[-1]


def advance(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n: int, eps: float
) -> tuple[list[Tensor], Tensor]:
    """As `evaluate`, but writes the new u and v into the given ones, a layer's buffers, if n > 0.

    Returns:
        The normalised weights, and each sigma.
    """
    plain = _Plain(weights, v, dims)
    backend = pick("spectral_norm", weights[0])
    if backend != "native" or plain.orders or not _apply.direct():
        results = plain.apply(u, n, eps)
        if n:
            plain.keep(results[-2], u, v)
        return plain.normalized(results[:-2]), results[-1]
    *normalized, _, sigma = _apply.apply(SpectralNorm, backend, dims, n, float(eps), (u, v), *weights)
    if n:
        increment_version([x for x in (*u, *v) if not x.is_inference()])
    return normalized, sigma


def iterate(weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n: int, eps: float) -> None:
    """Advances u and v in place, without normalised weights or a graph: a third of the memory traffic."""
    plain = _Plain(weights, v, dims)
    power = operator(pick("spectral_norm", weights[0]), "spectral_norm_power")
    plain.keep(power(plain.weights, u, plain.v, plain.dims, n, float(eps))[0], u, v)


class _Plain:
    """Weights as contiguous tensors: the axes of a dense one (channels_last, transposed) go in memory order."""

    def __init__(self, weights: list[Tensor], v: list[Tensor], dims: list[int]) -> None:
        self.weights, self.v, self.dims = weights, v, dims
        self.orders: dict[int, list[int]] = {}
        for k, w in enumerate(weights):
            order = None if w.is_contiguous() else _dense_order(w)
            if order is None:
                continue
            if not self.orders:
                self.weights, self.v, self.dims = list(weights), list(v), list(dims)
            self.orders[k] = order
            self.v[k] = _reorder(v[k], w.shape, dims[k], order)
            self.weights[k], self.dims[k] = w.permute(order), order.index(dims[k])

    def apply(self, u: list[Tensor], n: int, eps: float) -> tuple[Tensor, ...]:
        """The normalised weights, all vectors together, and each sigma."""
        backend = pick("spectral_norm", self.weights[0])
        return cast(
            tuple[Tensor, ...],
            _apply.apply(SpectralNorm, backend, self.dims, n, float(eps), None, *self.weights, *u, *self.v),
        )

    def keep(self, together: Tensor, u: list[Tensor], v: list[Tensor]) -> None:
        """Writes all vectors into u and v."""
        with torch.no_grad():
            if self.orders or u[0].dtype != together.dtype or torch.compiler.is_compiling():
                torch._foreach_copy_([*u, *v], [x for part in self.vectors(together) for x in part])
                return
            to = [x for pair in zip(u, v, strict=True) for x in pair]
            torch.split_with_sizes_copy(together, [x.numel() for x in to], out=to)

    def vectors(self, together: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """All u and all v, the latter in the order of the given weights."""
        parts = together.split(sizes(self.weights, self.dims))
        u, v = list(parts[::2]), list(parts[1::2])
        for k, order in self.orders.items():
            v[k] = _reorder(v[k], self.weights[k].shape, self.dims[k], _inverse(order))
        return u, v

    def normalized(self, found: Sequence[Tensor]) -> list[Tensor]:
        """Results in the shapes and memory formats of the given weights."""
        result = list(found)
        for k, order in self.orders.items():
            result[k] = result[k].permute(_inverse(order))
        return result


def _inverse(order: list[int]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]


def _dense_order(x: Tensor) -> list[int] | None:
    """The axes in memory order, if x fills its memory in another than its own order (channels_last, transposed)."""
    order = sorted(range(x.dim()), key=lambda axis: (x.stride(axis), x.shape[axis]), reverse=True)
    return order if x.permute(order).is_contiguous() and order != list(range(x.dim())) else None


def _reorder(v: Tensor, shape: torch.Size, dim: int, order: Sequence[int]) -> Tensor:
    """Columns of a matrix whose weight's axes are permuted."""
    columns = [n for axis, n in enumerate(shape) if axis != dim]
    kept = [axis if axis < dim else axis - 1 for axis in order if axis != dim]
    return v.reshape(columns).permute(kept).reshape(-1)


def _check(
    op: str,
    weights: Sequence[Tensor],
    u: Sequence[Tensor],
    v: Sequence[Tensor],
    dims: Sequence[int] | None,
    n_power_iterations: int,
    eps: float,
) -> list[int]:
    if len(weights) == 0:
        raise ValueError(f"{op}: weights must not be empty")
    axes = [0] * len(weights) if dims is None else list(dims)
    for name, entries in (("u", u), ("v", v), ("dims", axes)):
        if len(entries) != len(weights):
            raise ValueError(f"{op}: {name} must have one entry per weight ({len(weights)}), got {len(entries)}")
    if not isinstance(n_power_iterations, int) or isinstance(n_power_iterations, bool):
        raise TypeError(f"{op}: n_power_iterations must be an int, got {type(n_power_iterations).__name__}")
    if n_power_iterations < 0:
        raise ValueError(f"{op}: n_power_iterations must not be negative, got {n_power_iterations}")
    if not isinstance(eps, (float, int)):
        raise TypeError(f"{op}: eps must be a float, got {type(eps).__name__}")
    first = _checks.floating(op, "weight", weights[0])
    half = first.dtype in (torch.float16, torch.bfloat16)
    for k, weight in enumerate(weights):
        _checks.floating(op, "weight", weight)
        if op == "spectral_norm":
            _checks.rank(op, "weight", weight, "(h, w)")
        elif weight.dim() == 0:
            raise ValueError(f"{op}: weights[{k}] must have at least one dimension")
        if not -weight.dim() <= axes[k] < weight.dim():
            raise ValueError(f"{op}: dims[{k}] must be in [-{weight.dim()}, {weight.dim()}), got {axes[k]}")
        axes[k] %= weight.dim()
        h, w = sizes([weight], [axes[k]])
        for name, x, length in (("weight", weight, None), ("u", u[k], h), ("v", v[k], w)):
            _checks.floating(op, name, x)
            allowed = (first.dtype, torch.float32) if half and name != "weight" else (first.dtype,)
            if x.dtype not in allowed or x.device != first.device:
                raise TypeError(
                    f"{op}: {name} must be {' or '.join(map(str, allowed))} on {first.device}, "
                    f"got {x.dtype} on {x.device}"
                )
            if length is not None and (x.dim() != 1 or x.shape[0] != length):
                raise ValueError(f"{op}: {name} must have shape ({length},), got {tuple(x.shape)}")
    return axes
