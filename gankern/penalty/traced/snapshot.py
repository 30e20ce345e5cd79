"""Attributes and containers, which tracing must leave as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn


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
