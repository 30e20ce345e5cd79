"""Autograd Functions without torch's Python overhead."""

from __future__ import annotations

from typing import Any

import torch


def direct() -> bool:
    """Whether nothing but autograd looks on: neither torch.func nor torch.compile."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """As `function.apply(*arguments)`.

    For a Function with `setup_context`, torch's `apply` binds the arguments to forward's signature by `inspect` at
    each call, which takes longer than a small critic's layer. Only torch.func and torch.compile need that way.
    """
    if direct():
        return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]
    return function.apply(*arguments)
