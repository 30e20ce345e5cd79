"""Named inputs and the floor of nearest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern.ops import nearest
from gankern.ops._samples import Cost, Draw, OpSpec, Sample
from gankern.ops.closest_pairs.samples import Make, decaying, finite, gaussian, offset, ties
from gankern.ops.nearest import reference


def _sample(n: int, m: int | None, d: int, k: int, make: Make, *tags: str) -> Sample:
    def arguments(generator: torch.Generator) -> tuple[Tensor, Tensor | None, int]:
        x = make(n, d, generator)
        return x, None if m is None else make(m, d, generator), k

    return Sample(f"{n}-{'itself' if m is None else m}-{d}-{make.__name__}-k={k}", arguments, frozenset(tags))


SAMPLES = (
    _sample(20, 30, 10, 2, gaussian, "test", "interpret"),
    _sample(150, None, 60, 3, gaussian, "test", "interpret"),
    _sample(90, 160, 200, 5, decaying, "test", "interpret"),
    _sample(120, None, 30, 8, ties, "test", "interpret"),
    _sample(110, 130, 140, 1, offset, "test", "interpret"),
    _sample(2000, None, 512, 1, gaussian, "bench"),
)

EDGES = (
    *(_sample(n, None, 4, 1, gaussian, "test", "interpret") for n in (2, 3, 13)),
    *(_sample(n, 100, 7, 2, gaussian, "test", "interpret") for n in (0, 1, 127, 129)),
    *(_sample(n, 100, 7, 2, gaussian, "test") for n in (47, 48, 49, 192, 193)),
    *(_sample(70, m, 9, 1, gaussian, "test") for m in (1, 2, 95, 97, 193, 385)),
    *(_sample(70, 90, d, 4, gaussian, "test", "interpret") for d in (0, 1, 17, 128, 129)),
    *(_sample(80, 90, 20, k, gaussian, "test") for k in (1, 44, 45, 90)),
)


def operators(arguments: tuple[Any, ...], generator: torch.Generator) -> list[tuple[str, tuple[Any, ...]]]:
    """Each registered operator with arguments made from a sample's."""
    return [("nearest", arguments)]


def generate(draw: Draw) -> tuple[Any, ...]:
    """Arguments of random shape and values."""
    d = draw.integer(0, 150)
    x = finite(draw.tensor((draw.integer(2, 100), d)))
    y = finite(draw.tensor((draw.integer(2, 100), d))) if draw.boolean() else None
    return x, y, draw.integer(1, len(x) - 1 if y is None else len(y))


def cost(arguments: tuple[Any, ...], order: str, device: str) -> Cost:
    """The floor: every element read once, and a multiply-add per coordinate of each pair."""
    x, y, _ = arguments
    others = 0 if y is None else y.numel()
    pairs = len(x) * (len(x) - 1) // 2 if y is None else len(x) * len(y)
    return Cost(x.element_size() * (x.numel() + others), pairs * x[:1].numel())


def baseline(x: Tensor, y: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """What users type where all distances fit in memory."""
    distance = torch.cdist(x, x if y is None else y)
    if y is None:
        distance = distance.fill_diagonal_(torch.inf)
    best = distance.topk(k, largest=False)
    return best.values, best.indices


SPEC = OpSpec(
    name="nearest",
    call=nearest,
    reference=reference.nearest,
    orders=0,
    differentiable=(),
    operators=operators,
    samples=SAMPLES,
    generate=generate,
    cost=cost,
    edges=EDGES,
    baseline=baseline,
)
