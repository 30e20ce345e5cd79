"""What tracing must leave as it was: buffers, random states, attributes and containers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from gankern.penalty.traced.fingerprint import State


class Snapshot:
    """Buffers and random states, to be put back."""

    def __init__(self, state: State, device: torch.device) -> None:
        self.held = [x for x in (*state.tensors, *state.sources) if not isinstance(x, nn.Parameter)]
        self.values = [x.detach().clone() for x in self.held]
        self.device = device
        self.random = torch.get_rng_state()
        self.device_random = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def now(self) -> list[torch.Tensor]:
        """The buffers."""
        return [x.detach() for x in self.held]

    def restore(self) -> None:
        """Puts everything back."""
        with torch.no_grad():
            for x, value in zip(self.held, self.values, strict=True):
                if not torch.equal(x, value):
                    x.copy_(value)
        torch.set_rng_state(self.random)
        if self.device_random is not None:
            torch.cuda.set_rng_state(self.device_random, self.device)


def _contents(value: Any) -> list[Any]:
    return [x for pair in value.items() for x in pair] if isinstance(value, dict) else list(value)


def _inside(value: Any) -> Iterator[Any]:
    """The containers in a value that can change, each before those that it holds."""
    if isinstance(value, list | dict | set):
        yield value
    if isinstance(value, list | dict | set | tuple):
        for x in _contents(value):
            yield from _inside(x)


class Attributes:
    """The attributes of a critic's modules and what its code reads, to be put back after fake tensors passed.

    Args:
        module: the critic.
        others: containers that its code reads.
    """

    def __init__(self, module: nn.Module, others: Sequence[Any]) -> None:
        self.before = [(m.__dict__, dict(m.__dict__)) for m in module.modules()]
        roots = [*others, *(x for held, _ in self.before for x in held.values())]
        self.held = {id(x): (x, copy.copy(x)) for root in roots for x in _inside(root)}

    def restore(self) -> bool:
        """Whether anything had changed."""
        changed = False
        for now, before in self.before:
            if now.keys() != before.keys() or any(now[k] is not before[k] for k in before):
                now.clear()
                now.update(before)
                changed = True
        for value, former in self.held.values():
            if [*map(id, _contents(value))] != [*map(id, _contents(former))]:
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(former)
                changed = True
        return changed
