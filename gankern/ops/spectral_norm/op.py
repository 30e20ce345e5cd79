"""Schemas, shape functions and the autograd Functions of every order: one node for all layers of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gankern.backend import define, operator
from gankern.ops._apply import apply
from gankern.ops._autograd import third_order
from gankern.ops._checks import alike, floating
from gankern.ops.spectral_norm.reference import pairs, sizes


def _accumulate(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake_power(weights: list[Tensor], u: Any, v: Any, dims: list[int], n: int, eps: float) -> tuple[Tensor, Tensor]:
    first, dtype = weights[0], _accumulate(weights[0])
    return first.new_empty(sum(sizes(weights, dims)), dtype=dtype), first.new_empty(len(weights), dtype=dtype)


def _fake_forward(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n: int, eps: float
) -> tuple[list[Tensor], Tensor, Tensor]:
    for x in (*u, *v):  # a vector on the meta device brings real weights here
        if x.device != weights[0].device:
            raise ValueError(f"spectral_norm: u and v must be on {weights[0].device}, got {x.device}")
    return ([w.new_empty(w.shape) for w in weights], *_fake_power(weights, u, v, dims, n, eps))


def _fake_backward(grads: Any, grad_sigma: Any, weights: list[Tensor], *rest: Any) -> list[Tensor]:
    return [w.new_empty(w.shape) for w in weights]


def _fake_double_backward(
    cotangents: Any, grads: Any, grad_sigma: Tensor, weights: list[Tensor], *rest: Any
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    shapes = [w.shape for w in weights]
    new = weights[0].new_empty
    return [new(s) for s in shapes], grad_sigma.new_empty(grad_sigma.shape), [new(s) for s in shapes]


def _check_weights(name: str, weights: list[Tensor], dims: list[int]) -> None:
    if not weights or len(dims) != len(weights):
        raise ValueError(f"{name}: expected weights, and one of dims for each, got {len(weights)} and {len(dims)}")
    for weight, dim in zip(weights, dims, strict=True):
        floating(name, "weights", weight)
        alike(name, "weights", weight, weights[0], tuple(weight.shape))
        if not 0 <= dim < weight.dim():
            raise ValueError(f"{name}: dims must be inside the weights' shapes, got {dim} for {tuple(weight.shape)}")


def _check_vectors(name: str, what: str, x: Tensor, like: Tensor, length: int) -> None:
    floating(name, what, x)
    if x.dim() != 1 or x.shape[0] != length or x.device != like.device:
        raise ValueError(f"{name}: {what} must be ({length},) on {like.device}, got {tuple(x.shape)} on {x.device}")


def _check_start(name: str, weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n: int) -> None:
    _check_weights(name, weights, dims)
    if len(u) != len(weights) or len(v) != len(weights):
        raise ValueError(f"{name}: expected one u and one v per weight, got {len(u)} and {len(v)} for {len(weights)}")
    if n < 0:
        raise ValueError(f"{name}: n_power_iterations must not be negative, got {n}")
    lengths = sizes(weights, dims)
    for what, given, expected in (("u", u, lengths[::2]), ("v", v, lengths[1::2])):
        for x, length in zip(given, expected, strict=True):
            _check_vectors(name, what, x, weights[0], length)


def _check_like_weights(name: str, what: str, tensors: list[Tensor], weights: list[Tensor]) -> None:
    if len(tensors) != len(weights):
        raise ValueError(f"{name}: expected one of {what} per weight, got {len(tensors)} for {len(weights)}")
    for x, weight in zip(tensors, weights, strict=True):
        alike(name, what, x, weight, tuple(weight.shape))


def _check_results(name: str, weights: list[Tensor], dims: list[int], **results: Tensor) -> None:
    dtype = _accumulate(weights[0])
    for what, x in results.items():
        _check_vectors(name, what, x, weights[0], sum(sizes(weights, dims)) if what == "vectors" else len(weights))
        if x.dtype != dtype:
            raise TypeError(f"{name}: {what} must be {dtype}, got {x.dtype}")


def _check_forward(
    weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n: int, eps: float
) -> None:
    _check_start("spectral_norm", weights, u, v, dims, n)


def _check_power(weights: list[Tensor], u: list[Tensor], v: list[Tensor], dims: list[int], n: int, eps: float) -> None:
    _check_start("spectral_norm_power", weights, u, v, dims, n)


def _check_backward(
    grads: list[Tensor], grad_sigma: Tensor, weights: list[Tensor], vectors: Tensor, sigma: Tensor, dims: list[int]
) -> None:
    name = "spectral_norm_backward"
    _check_weights(name, weights, dims)
    _check_like_weights(name, "grads", grads, weights)
    _check_results(name, weights, dims, grad_sigma=grad_sigma, vectors=vectors, sigma=sigma)


def _check_double_backward(
    cotangents: list[Tensor],
    grads: list[Tensor],
    grad_sigma: Tensor,
    weights: list[Tensor],
    vectors: Tensor,
    sigma: Tensor,
    dims: list[int],
) -> None:
    name = "spectral_norm_double_backward"
    _check_weights(name, weights, dims)
    _check_like_weights(name, "cotangents", cotangents, weights)
    _check_like_weights(name, "grads", grads, weights)
    _check_results(name, weights, dims, grad_sigma=grad_sigma, vectors=vectors, sigma=sigma)


OP = define(
    __package__ or "gankern.ops.spectral_norm",
    [
        "spectral_norm(Tensor[] weights, Tensor[] u, Tensor[] v, int[] dims, int n_power_iterations, float eps)"
        " -> (Tensor[], Tensor, Tensor)",
        "spectral_norm_power(Tensor[] weights, Tensor[] u, Tensor[] v, int[] dims, int n_power_iterations, float eps)"
        " -> (Tensor, Tensor)",
        "spectral_norm_backward(Tensor[] grads, Tensor grad_sigma, Tensor[] weights, Tensor vectors, Tensor sigma,"
        " int[] dims) -> Tensor[]",
        "spectral_norm_double_backward(Tensor[] cotangents, Tensor[] grads, Tensor grad_sigma, Tensor[] weights,"
        " Tensor vectors, Tensor sigma, int[] dims) -> (Tensor[], Tensor, Tensor[])",
    ],
    {
        "spectral_norm": _fake_forward,
        "spectral_norm_power": _fake_power,
        "spectral_norm_backward": _fake_backward,
        "spectral_norm_double_backward": _fake_double_backward,
    },
    checks={
        "spectral_norm": _check_forward,
        "spectral_norm_power": _check_power,
        "spectral_norm_backward": _check_backward,
        "spectral_norm_double_backward": _check_double_backward,
    },
)

#: The native operator for a layer's buffers: it writes the new vectors into u and v too, if n > 0. It is for eager
#: mode alone, where two copies per layer take longer than a small layer's arithmetic; what traces gets functions.
_IN_PLACE = torch.library.Library("gankern_native", "FRAGMENT")
_IN_PLACE.define(
    "spectral_norm_(Tensor[] weights, Tensor(a!)[] u, Tensor(b!)[] v, int[] dims, int n_power_iterations, float eps)"
    " -> (Tensor[], Tensor, Tensor)"
)
torch.library.register_fake("gankern_native::spectral_norm_", _fake_forward, lib=_IN_PLACE)


def _present(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Gradients, with zeros for those that autograd knows to be zero."""
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, like, strict=True)]


def _save_alive(ctx: Any, tensors: tuple[Tensor, ...]) -> None:
    """Saves tensors that outlive a first backward.

    All layers of a call share one node, but their graphs must live apart, as if each had a node of its own: a backward
    through some layers may not free what the others need. So the node holds its tensors itself and checks their
    versions as torch would. It costs no memory: they are the parameters, and vectors.
    """
    ctx.held = tensors
    ctx.versions = [None if x.is_inference() else x._version for x in tensors]


def _saved_alive(ctx: Any) -> tuple[Tensor, ...]:
    for x, version in zip(ctx.held, ctx.versions, strict=True):
        if version is not None and x._version != version:
            raise RuntimeError(
                "spectral_norm: a tensor needed for its gradient was modified in place after the forward pass: one of "
                f"shape {tuple(x.shape)} is at version {x._version}; expected version {version}"
            )
    return ctx.held


def _of_sigma(
    grad_sigma: Tensor, vectors: Tensor, weights: list[Tensor], dims: list[int], needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of the sigmas alone, u v^T, in torch's operators: sigma has derivatives of every order."""
    found: list[Tensor | None] = []
    for k, (u, v) in enumerate(pairs(vectors, weights, dims)):
        if not needed[k]:
            found.append(None)
            continue
        w, dim = weights[k], dims[k]
        columns = [n for axis, n in enumerate(w.shape) if axis != dim]
        found.append(torch.outer(grad_sigma[k] * u, v).view(w.shape[dim], *columns).movedim(0, dim).to(w.dtype))
    return found


class SpectralNorm(torch.autograd.Function):
    """The normalised weights, the vectors and sigma."""

    @staticmethod
    def forward(
        backend: str,
        dims: list[int],
        n: int,
        eps: float,
        buffers: tuple[list[Tensor], list[Tensor]] | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """Runs the operator of one backend on all weights, all u, all v.

        `buffers` are the u and v to be advanced in place, and then `tensors` are the weights alone: each tensor that
        autograd is shown costs time.
        """
        count = len(dims)
        if buffers is not None:
            normalized, vectors, sigma = operator(backend, "spectral_norm_")(list(tensors), *buffers, dims, n, eps)
        else:
            weights, u, v = list(tensors[:count]), list(tensors[count : 2 * count]), list(tensors[2 * count :])
            normalized, vectors, sigma = operator(backend, "spectral_norm")(weights, u, v, dims, n, eps)
        return (*normalized, vectors, sigma)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps the weights, the new vectors and sigma."""
        ctx.backend, ctx.dims = inputs[:2]
        vectors, sigma = output[-2:]
        ctx.mark_non_differentiable(vectors)
        ctx.set_materialize_grads(False)
        weights = inputs[5 : 5 + len(ctx.dims)]
        if torch.compiler.is_compiling():
            ctx.save_for_backward(vectors, sigma, *weights)
        else:
            _save_alive(ctx, (vectors, sigma.detach(), *weights))  # sigma itself would hold this node: a cycle

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """DW of each weight that needs one, itself differentiable."""
        compiling = torch.compiler.is_compiling()
        vectors, sigma, *weights = ctx.saved_tensors if compiling else _saved_alive(ctx)
        dims, count, grad_sigma = ctx.dims, len(ctx.dims), grads[-1]
        needed = ctx.needs_input_grad[5 : 5 + count]
        found: list[Tensor | None] = [None] * count
        if grad_sigma is not None and all(g is None for g in grads[:-1]):
            found = _of_sigma(grad_sigma, vectors, weights, dims, needed)
            grad_sigma = None
        used = [k for k in range(count) if needed[k] and not (grad_sigma is None and grads[k] is None)]
        if grad_sigma is None:
            grad_sigma = torch.zeros_like(sigma)
        if 0 < len(used) < count:
            every = pairs(vectors, weights, dims)
            vectors = torch.cat([x for k in used for x in every[k]])
            weights, dims = [weights[k] for k in used], [dims[k] for k in used]
            sigma, grad_sigma = sigma[used], grad_sigma[used]
        if used:
            present = _present([grads[k] for k in used], weights)
            if compiling or not torch.is_grad_enabled():
                backward = operator(ctx.backend, "spectral_norm_backward")
                dw = backward(present, grad_sigma, weights, vectors, sigma, dims)
            else:
                dw = apply(SpectralNormBackward, ctx.backend, dims, grad_sigma, vectors, sigma, *present, *weights)
            for k, x in zip(used, dw, strict=True):
                found[k] = x
        return (None, None, None, None, None, *found, *[None] * (len(ctx.needs_input_grad) - 5 - count))


class SpectralNormBackward(torch.autograd.Function):
    """Each dW of the upstream gradients and the weights; sigma and the vectors count as part of the weights."""

    @staticmethod
    def forward(
        backend: str, dims: list[int], grad_sigma: Tensor, vectors: Tensor, sigma: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Runs the operator of one backend on all gradients, all weights."""
        grads, weights = list(tensors[: len(dims)]), list(tensors[len(dims) :])
        backward = operator(backend, "spectral_norm_backward")
        return tuple(backward(grads, grad_sigma, weights, vectors, sigma, dims))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps all inputs."""
        ctx.backend, ctx.dims = inputs[:2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The second order; a third raises."""
        grad_sigma, vectors, sigma, *tensors = ctx.saved_tensors
        weights = tensors[len(ctx.dims) :]
        v = _present(cotangents, weights)
        found = apply(SpectralNormDoubleBackward, ctx.backend, ctx.dims, grad_sigma, vectors, sigma, *v, *tensors)
        count = len(ctx.dims)
        return (None, None, found[count], None, None, *found[:count], *found[count + 1 :])


class SpectralNormDoubleBackward(torch.autograd.Function):
    """Gradients of sum_l <V_l, dW_l> with respect to the upstream gradients and the weights."""

    @staticmethod
    def forward(
        backend: str, dims: list[int], grad_sigma: Tensor, vectors: Tensor, sigma: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Runs the operator of one backend on all cotangents, all gradients, all weights."""
        count = len(dims)
        v, grads, weights = list(tensors[:count]), list(tensors[count : 2 * count]), list(tensors[2 * count :])
        double_backward = operator(backend, "spectral_norm_double_backward")
        dgrads, dgrad_sigma, dweights = double_backward(v, grads, grad_sigma, weights, vectors, sigma, dims)
        return (*dgrads, dgrad_sigma, *dweights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps nothing: there is no third order."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        """Raises NotImplementedError."""
        third_order("spectral_norm")
