"""Named inputs, orders and floors of minibatch_l1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankern.ops import minibatch_l1
from gankern.ops._samples import Cost, Draw, OpSpec, Sample
from gankern.ops.minibatch_l1 import reference

# exp costs 10 instructions per pair: two for the range reduction's n, two for r, five or six for the polynomial,
# one to scale. Absolute values and signs are bit operations on other ports and count as free.
_EXP = 10


def _inputs(n: int, b: int, c: int, include_self: bool = False, scale: float | None = None) -> Any:
    def make(generator: torch.Generator) -> tuple[Tensor, bool]:
        # Distances of order one, so that no kernel value vanishes.
        size = scale if scale is not None else 1.0 / max(c, 1)
        return torch.randn(n, b, c, generator=generator, dtype=torch.float64) * size, include_self

    return make


def _ties(generator: torch.Generator) -> tuple[Tensor, bool]:
    m = torch.randint(-2, 3, (13, 6, 4), generator=generator).double() * 0.25
    m[5] = m[2]
    return m, False


def _sample(n: int, b: int, c: int, *tags: str, **options: Any) -> Sample:
    name = f"{n}x{b}x{c}" + "".join(f"-{key}={value}" for key, value in options.items())
    return Sample(name, _inputs(n, b, c, **options), frozenset(tags))


SAMPLES = (
    _sample(9, 5, 4, "test", "interpret"),
    _sample(9, 5, 4, "test", "interpret", include_self=True),
    Sample("ties", _ties, frozenset({"test", "interpret"})),
    _sample(64, 100, 5, "test", "bench"),
    _sample(33, 7, 16, "test", scale=3.0),
    _sample(20, 3, 40, "test", "interpret"),
    _sample(12, 2, 220, "test"),
    _sample(150, 1, 112, "test"),
    _sample(256, 100, 5, "bench"),
    _sample(256, 50, 16, "bench"),
    _sample(1024, 100, 5, "bench"),
    _sample(4096, 20, 5, "memory"),
)

# Rows around the CPU tiles (blocks of 2, tiles of 8 to 64, parts from 64 rows on) and around GPU tiles; kernels
# around 4, 8 and 16 lanes and well below them; each kernel dimension with code of its own beside those without.
EDGES = (
    *(_sample(n, 3, 3, "test", "interpret") for n in (0, 1, 2, 3)),
    *(_sample(n, 2, 5, "test") for n in (31, 32, 63, 64, 65, 127, 129, 200)),
    *(_sample(n, 2, 2, "test", "interpret") for n in (15, 16, 17, 33)),
    *(_sample(n, b, 3, "test") for n, b in ((7, 1), (9, 2), (17, 1), (40, 5), (66, 1), (131, 4))),  # folded lanes
    _sample(97, 1, 2, "test", "interpret"),  # whole GPU tiles on both sides of the diagonal's
    *(_sample(5, b, 2, "test", "interpret") for b in (0, 1, 4, 9, 17)),
    *(_sample(6, 8, c, "test", "interpret") for c in (0, 1, 3, 6, 8, 16, 17)),
    *(_sample(37, 18, c, "test") for c in (2, 4, 5, 8, 16, 24)),
)


def operators(arguments: tuple[Any, ...], generator: torch.Generator) -> list[tuple[str, tuple[Any, ...]]]:
    """Each registered operator with arguments made from a sample's."""
    m, include_self = arguments
    grad = torch.randn(m.shape[:2], generator=generator, dtype=torch.float64).to(m)
    v = torch.randn(m.shape, generator=generator, dtype=torch.float64).to(m)
    return [
        ("minibatch_l1", (m, include_self)),
        ("minibatch_l1_backward", (grad, m)),
        ("minibatch_l1_double_backward", (v, grad, m)),
    ]


def generate(draw: Draw) -> tuple[Any, ...]:
    """Arguments of random shape and values."""
    shape = (draw.integer(0, 70), draw.integer(0, 19), draw.integer(0, 18))
    return draw.tensor(shape), draw.boolean()


def cost(arguments: tuple[Any, ...], order: str, device: str) -> Cost:
    """The floor: on the CPU each pair once, by symmetry; on a GPU both of its halves, as row owners."""
    m = arguments[0]
    n, b, c = m.shape
    pairs = n * (n - 1) // (2 if device == "cpu" else 1) * b
    sides = 2 if device == "cpu" else 1
    size = m.element_size()
    distance = 2 * c
    if order == "forward":
        return Cost(size * (m.numel() + n * b), pairs * (distance + _EXP + sides))
    if order == "backward":
        return Cost(size * (2 * m.numel() + n * b), pairs * (distance + _EXP + 2 + sides * c))
    # q: a difference and a multiply-add per element; then K q, G_i + G_j, their product and both rows' sums.
    per_pair = distance + _EXP + 2 * c + 3 + sides * (c + 1)
    return Cost(size * (3 * m.numel() + 2 * n * b), pairs * per_pair)


def broadcast(m: Tensor, include_self: bool) -> Tensor:
    """What users type: everything broadcast, the self term (exactly 1) summed and subtracted again."""
    o = torch.exp(-(m[:, None] - m[None]).abs().sum(-1)).sum(1)
    return o if include_self else o - 1


SPEC = OpSpec(
    name="minibatch_l1",
    call=minibatch_l1,
    reference=reference.minibatch_l1,
    orders=2,
    differentiable=(0,),
    operators=operators,
    samples=SAMPLES,
    generate=generate,
    cost=cost,
    edges=EDGES,
    independent_axis=1,
    baseline=broadcast,
)
