"""Named inputs, orders and floors of interpolate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern.ops import interpolate
from gankern.ops._samples import Cost, Draw, OpSpec, Sample, bounded
from gankern.ops.interpolate import reference

_Arguments = tuple[Any, ...]


def _inputs(shape: tuple[int, ...]) -> Any:
    def make(generator: torch.Generator) -> _Arguments:
        real = torch.randn(shape, generator=generator, dtype=torch.float64)
        fake = torch.randn(shape, generator=generator, dtype=torch.float64)
        return real, fake, torch.rand(shape[:1], generator=generator, dtype=torch.float64)

    return make


def _ends(generator: torch.Generator) -> _Arguments:
    real, fake, alpha = _inputs((6, 3, 5))(generator)
    alpha[0], alpha[1] = 0, 1
    return real, fake, alpha


def _sample(shape: tuple[int, ...], *tags: str) -> Sample:
    return Sample("x".join(map(str, shape)), _inputs(shape), frozenset(tags))


SAMPLES = (
    _sample((5, 3, 4, 4), "test", "interpret"),
    Sample("ends", _ends, frozenset({"test", "interpret"})),
    _sample((64, 3, 32, 32), "test", "bench"),
    _sample((256, 784), "bench"),
    _sample((32, 3, 256, 256), "bench"),
)

# Around vectors, blocks of 1024 and parts of 16384 elements.
EDGES = (
    *(_sample((n, 5), "test", "interpret") for n in (0, 1, 2)),
    *(_sample((3, d), "test", "interpret") for d in (0, 1, 7, 8, 9, 16, 63, 64, 65, 129)),
    *(_sample((2, d), "test") for d in (1023, 1024, 1025, 16383, 16384, 16385, 40000)),
    _sample((7,), "test", "interpret"),
)


def _oracle(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    if real.dim() == 1:
        return reference.interpolate(real[:, None], fake[:, None], alpha)[:, 0]
    return reference.interpolate(real.flatten(1), fake.flatten(1), alpha.reshape(-1)).view(real.shape)


def operators(arguments: _Arguments, generator: torch.Generator) -> list[tuple[str, _Arguments]]:
    """Each registered operator with arguments made from a sample's."""
    real, fake, alpha = (t.flatten(1) if t.dim() > 1 else t for t in arguments)
    if real.dim() == 1:
        real, fake = real[:, None], fake[:, None]
    alpha = alpha.to(torch.float64 if real.dtype == torch.float64 else torch.float32)

    def random(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    grad = random(real)
    return [
        ("interpolate", (real, fake, alpha)),
        ("interpolate_backward", (grad, real, fake, alpha)),
        (
            "interpolate_double_backward",
            (random(real), random(real), random(alpha), grad, real, fake, alpha),
        ),
    ]


def generate(draw: Draw) -> _Arguments:
    """Arguments of random shape and values."""
    shape = tuple(draw.integer(0, 12) for _ in range(draw.integer(1, 4)))
    real, fake = (bounded(draw.tensor(shape), 1e30) for _ in range(2))
    return real, fake, bounded(draw.tensor(shape[:1]), 8.0)  # with huge fractions, alpha and 1 - alpha only cancel


def cost(arguments: _Arguments, order: str, device: str) -> Cost:
    """The floor: every tensor read or written once; a product and a multiply-add for each element of the result."""
    x = arguments[0]
    passes, instructions = {"forward": (3, 2), "backward": (5, 4), "double_backward": (8, 9)}[order]
    return Cost(x.element_size() * x.numel() * passes, x.numel() * instructions)


SPEC = OpSpec(
    name="interpolate",
    call=interpolate,
    reference=_oracle,
    orders=2,
    differentiable=(0, 1, 2),
    operators=operators,
    samples=SAMPLES,
    generate=generate,
    cost=cost,
    edges=EDGES,
)
