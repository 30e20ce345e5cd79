"""What the autograd Functions of all ops share."""

from __future__ import annotations

from typing import NoReturn


def third_order(op: str) -> NoReturn:
    """Refuses a derivative that is not implemented, instead of losing its terms without a word."""
    raise NotImplementedError(
        f"{op}: third-order derivatives are not implemented; it is differentiable twice "
        f"(gankern.ops.{op}.reference is plain torch, differentiable to any order, but slow)"
    )
