"""What the autograd Functions of all ops share."""

from __future__ import annotations

from typing import Any, NoReturn

import torch


def third_order(op: str) -> NoReturn:
    """Refuses a derivative that is not implemented, instead of losing its terms without a word."""
    raise NotImplementedError(
        f"{op}: third-order derivatives are not implemented; it is differentiable twice "
        f"(gankern.ops.{op}.reference is plain torch, differentiable to any order, but slow)"
    )


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`function.apply(*arguments)`, without the inspection of forward's signature that costs torch 10 us and more.

    Under torch.compile and torch.func it is torch's own.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]
