"""Argument checks shared by the public functions: each message names the argument, what it must be and what came."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor


def tensor(op: str, name: str, value: object) -> Tensor:
    """`value`, if it is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_nested:
        kind = "a nested tensor" if value.is_nested else f"layout {value.layout}"
        raise TypeError(f"{op}: {name} must be a dense tensor, got {kind}")
    return value


def floating(op: str, name: str, value: object) -> Tensor:
    """`value`, if it is a tensor of float64, float32, bfloat16 or float16."""
    x = tensor(op, name, value)
    if x.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"{op}: {name} must be float64, float32, bfloat16 or float16, got {x.dtype}")
    return x


def rank(op: str, name: str, x: Tensor, shape: str) -> None:
    """Raises unless x has as many dimensions as the shape, such as "(N, B, C)", names."""
    expected = shape.count(",") + 1
    if x.dim() != expected:
        raise ValueError(f"{op}: {name} must have shape {shape}, got {tuple(x.shape)}")


def alike(op: str, name: str, x: Tensor, other: Tensor, shape: tuple[int, ...]) -> None:
    """Raises unless x has this shape, and the dtype and device of another argument."""
    if tuple(x.shape) != tuple(shape) or x.dtype != other.dtype or x.device != other.device:
        raise ValueError(
            f"{op}: {name} must be {tuple(shape)}, {other.dtype} on {other.device}; "
            f"got {tuple(x.shape)}, {x.dtype} on {x.device}"
        )


def boolean(op: str, name: str, value: object) -> bool:
    """`value`, if it is a bool of Python's or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{op}: {name} must be a bool, got {type(value).__name__}")
    return bool(value)


def autocast(x: Tensor) -> bool:
    """Whether autocast is on for x's device."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def positive(op: str, name: str, value: object) -> int:
    """`value`, if it is an integer of at least 1."""
    if isinstance(value, np.integer):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{op}: {name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{op}: {name} must be at least 1, got {value}")
    return cast(int, value)
