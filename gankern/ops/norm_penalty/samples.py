"""Named inputs, orders and floors of norm_penalty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern.ops import norm_penalty
from gankern.ops._samples import Cost, Draw, OpSpec, Sample, bounded
from gankern.ops.norm_penalty import reference
from gankern.ops.norm_penalty.op import KINDS

_Arguments = tuple[Any, ...]


def _inputs(shape: tuple[int, ...], kind: str, target: float, zero_row: bool) -> Any:
    def make(generator: torch.Generator) -> _Arguments:
        g = torch.randn(shape, generator=generator, dtype=torch.float64)
        g = g / max(g[0].numel() if g.shape[0] else 1, 1) ** 0.5
        g = g * (torch.arange(shape[0], dtype=torch.float64) % 3 + 0.5).view(-1, *[1] * (len(shape) - 1))
        if zero_row and shape[0]:
            g[-1] = 0
        return g, kind, target

    return make


def _sample(shape: tuple[int, ...], kind: str, *tags: str, target: float = 1.0, zero_row: bool = False) -> Sample:
    name = "x".join(map(str, shape)) + f"-{kind}" + (f"-{target:g}" if target != 1 else "") + "-zero" * zero_row
    return Sample(name, _inputs(shape, kind, target, zero_row), frozenset(tags))


SAMPLES = (
    *(_sample((5, 3, 4, 4), kind, "test", "interpret") for kind in KINDS),
    *(_sample((4, 33), kind, "test", "interpret", zero_row=True) for kind in KINDS),
    _sample((6, 17), "two-sided", "test", "interpret", target=0.0),
    _sample((6, 17), "one-sided", "test", "interpret", target=0.7),
    _sample((64, 3, 32, 32), "two-sided", "test", "bench"),
    _sample((256, 784), "two-sided", "bench"),
    _sample((32, 3, 256, 256), "zero-centered", "bench"),
)

# Around vectors, blocks of 1024 and parts of 16384 elements.
EDGES = (
    *(_sample((n, 5), "two-sided", "test", "interpret") for n in (0, 1, 2)),
    *(_sample((3, d), "two-sided", "test", "interpret") for d in (0, 1, 7, 8, 9, 16, 63, 64, 65, 129)),
    *(_sample((2, d), "one-sided", "test") for d in (1023, 1024, 1025, 16383, 16384, 16385, 40000)),
    _sample((7,), "two-sided", "test", "interpret"),
)


def _oracle(g: Tensor, kind: str, target: float) -> tuple[Tensor, Tensor]:
    return reference.norm_penalty(g.flatten(1) if g.dim() > 1 else g[:, None], KINDS.index(kind), target)


def operators(arguments: _Arguments, generator: torch.Generator) -> list[tuple[str, _Arguments]]:
    """Each registered operator with arguments made from a sample's."""
    g, name, target = arguments
    rows = g.flatten(1) if g.dim() > 1 else g[:, None]
    kind = KINDS.index(name)
    _, norm = reference.norm_penalty(rows, kind, target)
    grad = torch.randn(norm.shape, generator=generator, dtype=torch.float64).to(norm)
    v = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(rows)
    return [
        ("norm_penalty", (rows, kind, target)),
        ("norm_penalty_backward", (grad, rows, norm, kind, target)),
        ("norm_penalty_double_backward", (v, grad, rows, norm, kind, target)),
    ]


def generate(draw: Draw) -> _Arguments:
    """Arguments of random shape and values."""
    shape = tuple(draw.integer(0, 12) for _ in range(draw.integer(1, 4)))
    kind = KINDS[draw.integer(0, 2)]
    g = draw.tensor(shape)
    # Without a target, second derivatives are differences of equal terms, whose rounding the float64 oracle has too:
    # the named samples have that case.
    return bounded(g, 1e30) if kind == "zero-centered" else g, kind, draw.integer(1, 4) / 2


def cost(arguments: _Arguments, order: str, device: str) -> Cost:
    """The floor: every tensor read or written once; sums of squares and products are one instruction each."""
    g = arguments[0]
    size, elements = g.element_size(), g.numel()
    passes, instructions = {"forward": (1, 1), "backward": (2, 1), "double_backward": (3, 3)}[order]
    return Cost(size * elements * passes, elements * instructions)


SPEC = OpSpec(
    name="norm_penalty",
    call=norm_penalty,
    reference=_oracle,
    orders=2,
    differentiable=(0,),
    operators=operators,
    samples=SAMPLES,
    generate=generate,
    cost=cost,
    edges=EDGES,
)
