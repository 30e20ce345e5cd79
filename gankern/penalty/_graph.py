"""The gradient at the points, and the parameters that a penalty's graph does not reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gankern.ops._apply import apply


def input_gradients(op: str, scores: Sequence[Tensor], points: Sequence[Tensor], scale: float) -> list[Tensor]:
    """dD/dx for each tensor of points, D the sum of all scores, ready to be differentiated again.

    The gradient is taken of scale * D and divided by scale afterwards, in float32 or better, so that float16 inside
    the critic does not lose it.
    """
    alive = [s for s in scores if s.requires_grad]
    if not alive:
        raise ValueError(f"{op}: the scores do not depend on the points: the critic ignores or detaches its input")
    if any(s.dtype == torch.float16 for s in alive):
        scale = min(scale, 2.0**15)  # GradScaler begins at 2^16, which float16 cannot hold
    seeds = [torch.full_like(s, scale, requires_grad=False) for s in alive]
    found = torch.autograd.grad(alive, list(points), seeds, create_graph=torch.is_grad_enabled(), allow_unused=True)
    gradients = []
    for g in found:
        if g is None:
            raise ValueError(f"{op}: the scores do not depend on the points: the critic ignores or detaches its input")
        gradients.append(g if scale == 1 else g.float() / scale if g.dtype != torch.float64 else g / scale)
    return gradients


_ACCUMULATE = type(torch.ones((), requires_grad=True).view(()).grad_fn.next_functions[0][0])  # type: ignore[union-attr]


def leaves(*roots: Tensor, above: Sequence[Tensor] = (), without: str = "") -> dict[Any, Tensor]:
    """The leaf tensors below some tensors, by their node of the graph.

    Args:
        roots: where to begin.
        above: tensors that are as leaves, whatever they were computed from.
        without: leaves directly below a node that has this in its name do not count there.
    """
    found: dict[Any, Tensor] = {}
    seen: set[Any] = {t.grad_fn for t in above}
    stack = [t.grad_fn for t in roots if t.grad_fn is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for below, _ in node.next_functions:
            if below is None:
                continue
            if type(below) is not _ACCUMULATE:
                stack.append(below)
            elif not without or without not in node.name():
                found[below] = below.variable  # type: ignore[attr-defined]
    return found


class _Anchor(torch.autograd.Function):
    """The value, unchanged, with gradient zero for some parameters: NaN where the value's own gradient is."""

    @staticmethod
    def forward(value: Tensor, *parameters: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        zeros = [torch.zeros_like(p) for p in ctx.saved_tensors]
        return grad, *torch._foreach_mul(zeros, grad)


def anchor(value: Tensor, scores: Sequence[Tensor], points: Sequence[Tensor], everywhere: bool = False) -> Tensor:
    """The value, with a gradient for every parameter that the critic used: zero where nothing depends on it.

    A bias of a piecewise-linear critic has no influence on the penalty. DistributedDataParallel waits for the
    gradients of all parameters that a forward pass used, and optimisers skip those without one. A normalisation's
    backward has its bias among its arguments, but gives it no gradient.

    Args:
        value: a penalty.
        scores: what the critic gave at the points.
        points: what was differentiated, no parameters.
        everywhere: also for parameters that the value reaches, so that a NaN reaches all of each.
    """
    if not value.requires_grad and (not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()):
        return value
    below = leaves(*scores, above=points)
    reached = {} if everywhere else leaves(value, without="NormBackward")
    points_ids = {id(p) for p in points}
    missing = [p for node, p in below.items() if node not in reached and id(p) not in points_ids]
    if not value.requires_grad and not missing:  # as eager's, a value with nothing to train requires grad
        missing = list(points[:1])
    return apply(_Anchor, value, *missing) if missing else value


def nothing(tensors: Sequence[Tensor]) -> Tensor:
    """Zero, (), or NaN if any of the tensors has a NaN or an infinity; without waiting for a device."""
    terms = [(x - x).sum() for x in (t.detach() for t in tensors)]
    return terms[0] if len(terms) == 1 else torch.stack([x.double() for x in terms]).sum()


def on_host(x: Tensor) -> bool:
    """Whether x's values can be looked at, at no cost."""
    return type(x) is Tensor and x.device.type == "cpu" and not torch._C._are_functorch_transforms_active()


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors on the host have neither NaN nor infinity."""
    for x in tensors:
        x = x.detach()
        if not math.isfinite(x.sum().item()) and not x.isfinite().all():
            return False
    return True
