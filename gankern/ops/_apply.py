"""Autograd Functions without torch's Python overhead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def direct() -> bool:
    """Whether nothing but autograd looks on: neither torch.func nor torch.compile."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """As `function.apply(*arguments)`, for a Function with `setup_context`.

    torch's `apply` binds the arguments to forward's signature by `inspect` at each call, which takes longer than a
    small critic's layer. Only torch.func and torch.compile need that way. Where no gradient can be wanted, forward
    runs alone.
    """
    if not direct():
        return function.apply(*arguments)
    if forward_ad._current_level < 0 and not (torch.is_grad_enabled() and _any_requires_grad(arguments)):
        return function.forward(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]


def _any_requires_grad(arguments: tuple[Any, ...]) -> bool:
    for x in arguments:  # noqa: SIM110  # any() takes longer
        if isinstance(x, Tensor) and x.requires_grad:
            return True
    return False
