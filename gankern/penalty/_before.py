"""What running a critic changes beside its result, to be put back before another engine runs it again."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def owner(function: Callable[..., Any]) -> Any:
    """The object that lives as long as a critic: a bound method is made anew at each access."""
    return getattr(function, "__self__", function)


def modules(function: Any) -> Iterator[nn.Module]:
    """The modules that a critic may run: itself, or those that a function can see."""
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, functools.partial):
        for x in (function.func, *function.args, *function.keywords.values()):
            if isinstance(x, nn.Module) or callable(x):
                yield from modules(x)
    elif inspect.ismethod(function):
        yield from modules(function.__self__)
    elif inspect.isfunction(function):
        names = function.__code__.co_names
        visible = [function.__globals__.get(name) for name in names]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # not filled yet
                visible.append(cell.cell_contents)
        for x in visible:
            held = getattr(x, "__dict__", {})
            for y in (x, *(held.get(name) for name in names)):
                if isinstance(y, nn.Module):
                    yield y


def buffers(function: Callable[..., Any]) -> list[Tensor]:
    """Those of all these modules, each once."""
    return list({id(x): x for m in modules(function) for x in m.buffers()}.values())


class Before:
    """Buffers and the states of torch's random generators."""

    def __init__(self, held: list[Tensor], device: torch.device) -> None:
        self.held = held
        self.values = [x.detach().clone() for x in held]
        self.random = torch.get_rng_state()
        self.device = device
        self.device_random = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def now(self) -> list[Tensor]:
        """The buffers."""
        return [x.detach() for x in self.held]

    def restore(self) -> None:
        """Puts everything back. To graphs that saved a buffer, as batch_norm's do, nothing has happened."""
        for x, value in zip(self.held, self.values, strict=True):
            if not torch.equal(x, value):
                x.data.copy_(value)
        torch.set_rng_state(self.random)
        if self.device_random is not None:
            torch.cuda.set_rng_state(self.device_random, self.device)
