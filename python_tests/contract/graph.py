"""One forward pass of an op, and its derivatives of every order with given cotangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from gankern.ops._samples import OpSpec


def cast(arguments: Any, dtype: torch.dtype, device: str = "cpu") -> Any:
    """The same tree with floating tensors in `dtype`, and every tensor on `device`, strides and offsets kept."""

    def one(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return _with_strides(x.detach(), dtype if x.is_floating_point() else x.dtype, device)

    return tree_map(one, arguments)


def _with_strides(x: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    if x.numel() == 0:
        return x.to(device, dtype)
    extent = x.storage_offset() + 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    memory = torch.full((extent + 3,), torch.nan if dtype.is_floating_point else 1, dtype=dtype, device=device)
    result = memory.as_strided(x.shape, x.stride(), x.storage_offset())
    written = result
    for dim, stride in enumerate(x.stride()):
        if stride == 0:
            written, x = written.narrow(dim, 0, 1), x.narrow(dim, 0, 1)
    written.copy_(x)
    return result


def tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def with_leaves(spec: OpSpec, arguments: Sequence[Any]) -> tuple[list[Any], list[Tensor]]:
    """The arguments with fresh leaves at the differentiable positions, strides kept, and those leaves."""
    prepared = list(arguments)
    if spec.orders:
        for position in spec.differentiable:
            prepared[position] = tree_map(lambda x: x.detach().requires_grad_(), prepared[position])
    leaves = [x for position in spec.differentiable for x in tensors(prepared[position])] if spec.orders else []
    return prepared, leaves


class Graph:
    """A forward pass whose derivatives can be taken again and again.

    `outputs` are all tensors of the result; `roots` those that require grad.
    """

    def __init__(self, spec: OpSpec, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self.spec = spec
        self.arguments, self.leaves = with_leaves(spec, arguments)
        self.result = function(*self.arguments)
        self.outputs = tensors(self.result)
        self.roots = [x for x in self.outputs if x.requires_grad]

    def _grad(
        self, outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor], create: bool
    ) -> list[Tensor]:
        used = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
        if not used:
            return [torch.zeros_like(x) for x in inputs]
        got = torch.autograd.grad(
            [o for o, _ in used],
            inputs,
            [c for _, c in used],
            create_graph=create,
            retain_graph=True,
            allow_unused=True,
        )
        return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, got, strict=True)]

    def first(self, g: list[Tensor], create: bool = False) -> list[Tensor]:
        return self._grad(self.roots, self.leaves, g, create)

    def second(self, g: list[Tensor], v: list[Tensor], create: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """First derivatives, then the gradients of their product with V: of the leaves, then of G."""
        g = [x.detach().requires_grad_() for x in g]
        first = self.first(g, create=True)
        return first, self._grad(first, [*self.leaves, *g], v, create)

    def results(self, g: list[Tensor], v: list[Tensor]) -> dict[str, Tensor]:
        """Every tensor of every order that the op has, by name."""
        found = {f"output {k}": x.detach() for k, x in enumerate(self.outputs)}
        if not self.roots:
            return found
        if self.spec.orders == 1:
            first, second = self.first(g), []
        else:
            first, second = self.second(g, v)
        found |= {f"gradient {k}": x.detach() for k, x in enumerate(first)}
        found |= {f"second-order gradient {k}": x.detach() for k, x in enumerate(second)}
        return found
