"""Autograd Functions without torch's Python overhead."""

from __future__ import annotations

from typing import Any

import torch


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """As `function.apply(*arguments)`.

    For a Function with `setup_context`, torch's `apply` binds the arguments to forward's signature by `inspect` at
    each call, which takes longer than a small critic's layer. Only torch.func and torch.compile need that way.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]
