"""Named inputs and the floor of closest_pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gankern.ops import closest_pairs
from gankern.ops._samples import Cost, Draw, OpSpec, Sample
from gankern.ops.closest_pairs import reference

K = 20

Make = Callable[[int, int, torch.Generator], Tensor]


def gaussian(n: int, d: int, generator: torch.Generator) -> Tensor:
    """No structure: nothing can be pruned."""
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def decaying(n: int, d: int, generator: torch.Generator) -> Tensor:
    """A decaying spectrum, as images and features have it."""
    rank = 32
    lead = gaussian(n, rank, generator) / torch.arange(1, rank + 1)
    return lead @ gaussian(rank, d, generator) + 0.02 * gaussian(n, d, generator)


def ties(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Small integers, and some rows twice."""
    x = torch.randint(-1, 2, (n, d), generator=generator).double()
    x[n // 2 :: 5] = x[: len(x[n // 2 :: 5])]
    return x


def offset(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Far from the origin, beside the distances."""
    return decaying(n, d, generator) + 1000.0


def finite(x: Tensor) -> Tensor:
    """Zero in place of NaN and Inf, which are errors and not results."""
    return torch.where(x.isfinite(), x, 0)


def _sample(n: int, d: int, make: Make, *tags: str, k: int = K) -> Sample:
    name = f"{n}x{d}-{make.__name__}" + ("" if k == K else f"-k={k}")
    return Sample(name, lambda generator: (make(n, d, generator), k), frozenset(tags))


SAMPLES = (
    _sample(30, 20, gaussian, "test", "interpret"),
    _sample(120, 60, gaussian, "test", "interpret"),
    _sample(150, 200, decaying, "test", "interpret"),
    _sample(150, 200, ties, "test", "interpret", k=300),
    _sample(130, 150, offset, "test", "interpret"),
    _sample(1000, 3072, gaussian, "bench"),
    _sample(1000, 3072, decaying, "bench"),
)

# Rows around the panels of 12, 24 and 48 and the tiles of 192 (128 on a GPU); widths around the runs of 128; k around
# all pairs.
EDGES = (
    *(_sample(n, 3, gaussian, "test", "interpret") for n in (0, 1, 2, 3, 12, 13)),
    *(_sample(n, 5, gaussian, "test") for n in (95, 96, 97, 192, 193)),
    *(_sample(100, d, gaussian, "test", "interpret") for d in (0, 1, 16, 17, 64, 65, 129)),
    *(_sample(100, d, gaussian, "test") for d in (15, 127, 128, 257)),
    *(_sample(n, 7, gaussian, "test", "interpret") for n in (127, 128, 129)),
    *(_sample(98, 140, decaying, "test", k=k) for k in (1, 2376, 2377, 4753, 5000)),
)


def operators(arguments: tuple[Any, ...], generator: torch.Generator) -> list[tuple[str, tuple[Any, ...]]]:
    """Each registered operator with arguments made from a sample's."""
    x, k = arguments
    return [("closest_pairs", (x, min(k, len(x) * (len(x) - 1) // 2)))]


def generate(draw: Draw) -> tuple[Any, ...]:
    """Arguments of random shape and values."""
    return finite(draw.tensor((draw.integer(0, 120), draw.integer(0, 200)))), draw.integer(1, 60)


def cost(arguments: tuple[Any, ...], order: str, device: str) -> Cost:
    """The floor: every element read and used once. How many pairs a bound rules out depends on the data."""
    x = arguments[0]
    return Cost(x.element_size() * x.numel(), x.numel())


def oracle(x: Tensor, k: int) -> tuple[Tensor, ...]:
    """The reference with the public function's arguments."""
    return reference.closest_pairs(x, min(k, len(x) * (len(x) - 1) // 2))


def baseline(x: Tensor, k: int) -> tuple[Tensor, ...]:
    """What users type where all distances fit in memory."""
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    distance, best = torch.pdist(x).topk(min(k, len(i)), largest=False)
    return distance, i[best], j[best]


SPEC = OpSpec(
    name="closest_pairs",
    call=closest_pairs,
    reference=oracle,
    orders=0,
    differentiable=(),
    operators=operators,
    samples=SAMPLES,
    generate=generate,
    cost=cost,
    edges=EDGES,
    baseline=baseline,
)
