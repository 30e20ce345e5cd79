"""Named inputs, orders and floors of spectral_norm, as its group form: the single matrix is a group of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gankern.ops import spectral_norm_group
from gankern.ops._samples import Cost, Draw, OpSpec, Sample
from gankern.ops.spectral_norm import reference as plain

Arguments = tuple[list[Tensor], list[Tensor], list[Tensor], list[int], int, float]


def reference(
    weights: Sequence[Tensor],
    u: Sequence[Tensor],
    v: Sequence[Tensor],
    dims: Sequence[int] | None = None,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """`spectral_norm_group` in plain torch."""
    axes = [0] * len(weights) if dims is None else list(dims)
    normalized, vectors, sigma = plain.spectral_norm(list(weights), list(u), list(v), axes, n_power_iterations, eps)
    both = plain.pairs(vectors, list(weights), axes)
    return normalized, [x for x, _ in both], [y for _, y in both], sigma


def _arguments(weights: list[Tensor], dims: list[int], n: int, eps: float, generator: torch.Generator) -> Arguments:
    lengths = plain.sizes(weights, dims)
    vectors = [torch.randn(length, generator=generator, dtype=torch.float64) for length in lengths]
    vectors = [x / x.norm().clamp_min(1e-12) for x in vectors]
    return weights, vectors[::2], vectors[1::2], dims, n, eps


def _sample(
    name: str,
    shapes: Sequence[tuple[int, ...]],
    *tags: str,
    dims: Sequence[int] | None = None,
    n: int = 1,
    eps: float = 1e-12,
    zero: bool = False,
) -> Sample:
    def make(generator: torch.Generator) -> Arguments:
        weights = []
        for shape in shapes:
            w = torch.randn(shape, generator=generator, dtype=torch.float64) / max(shape[0], 1) ** 0.5
            weights.append(torch.zeros_like(w) if zero else w)
        return _arguments(weights, list(dims or [0] * len(shapes)), n, eps, generator)

    return Sample(name, make, frozenset(tags))


#: Discriminators whose weights the benchmark normalises.
SNGAN_32 = (
    *((128, 3, 3, 3), (128, 128, 3, 3), (128, 3, 1, 1)),  # first block with its shortcut
    *((128, 128, 3, 3), (128, 128, 3, 3), (128, 128, 1, 1)),  # second block
    *([(128, 128, 3, 3)] * 4),  # two blocks without a convolution in the shortcut
    (1, 128),
)
DCGAN_32 = ((32, 3, 4, 4), (64, 32, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (1, 256, 4, 4))


def _biggan_128(channels: int = 96) -> tuple[tuple[int, ...], ...]:
    """The 17 convolutions of BigGAN's discriminator for 128 x 128 images; only its last block has no shortcut."""
    shapes: list[tuple[int, ...]] = []
    inputs = 3
    for outputs in (channels * m for m in (1, 2, 4, 8, 16, 16)):
        shapes += [(outputs, inputs, 3, 3), (outputs, outputs, 3, 3)]
        if inputs != outputs:
            shapes.append((outputs, inputs, 1, 1))
        inputs = outputs
    return tuple(shapes)


BIGGAN_128 = _biggan_128()

SAMPLES = (
    # The first is for finite differences, which would see u and v move with W if the op iterated.
    _sample("constant-vectors", [(5, 4), (3, 2, 2, 2)], "test", "interpret", dims=[0, 1], n=0),
    _sample("two-layers", [(5, 4), (3, 2, 2, 2)], "test", "interpret", dims=[0, 1]),
    _sample("linear", [(20, 40)], "test", "interpret"),
    _sample("iterations", [(6, 9), (4, 3, 3)], "test", "interpret", n=3),
    _sample("eps", [(6, 9), (4, 3, 3)], "test", "interpret", eps=10.0),
    _sample("every-rank", [(7,), (6, 5), (4, 3, 3), (3, 4, 2, 3), (2, 3, 2, 2, 3)], "test", "interpret"),
    _sample("transposed", [(6, 5), (4, 3, 3), (3, 4, 2, 3), (2, 3, 2, 2, 3)], "test", "interpret", dims=[1, 1, 3, 1]),
    _sample("critic", DCGAN_32[:3], "test"),
    _sample("dcgan-32", DCGAN_32, "bench"),
    _sample("sngan-32", SNGAN_32, "bench"),
    _sample("biggan-128", BIGGAN_128, "bench"),
)

# Around blocks of 4 rows, vectors of 2 to 16 lanes and their unrolled loops, panels, the 16384 elements from which rows
# are cut, and the 65536 at which elements are. (Rows beyond 4096 columns: test_spectral_norm.py.)
EDGES = (
    *(_sample(f"{h}-rows", [(h, 6)], "test") for h in (1, 2, 3, 4, 5, 7, 8, 9, 257)),
    *(_sample(f"{w}-columns", [(5, w)], "test") for w in (1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 65, 127, 129, 255)),
    *(_sample(f"{h}x128", [(h, 128)], "test") for h in (127, 129, 191, 193, 511, 513)),
    *(_sample(f"{a}x{h}x{b}", [(a, h, b)], "test", dims=[1]) for a, h, b in ((65, 67, 1), (33, 70, 16), (9, 260, 9))),
    _sample("zero", [(4, 3)], "test", "interpret", zero=True),
    _sample("no-rows", [(0, 3), (2, 2)], "test", "interpret"),
    _sample("no-columns", [(2, 2), (3, 0)], "test", "interpret"),
)


def operators(arguments: tuple[Any, ...], generator: torch.Generator) -> list[tuple[str, tuple[Any, ...]]]:
    """Each registered operator with arguments made from a sample's."""
    weights, u, v, dims, n, eps = arguments
    _, vectors, sigma = plain.spectral_norm(weights, u, v, dims, n, eps)

    def like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)

    grads, cotangents = [like(w) for w in weights], [like(w) for w in weights]
    rest = (like(sigma), weights, vectors, sigma, dims)
    return [
        ("spectral_norm", (weights, u, v, dims, n, eps)),
        ("spectral_norm_power", (weights, u, v, dims, n, eps)),
        ("spectral_norm_backward", (grads, *rest)),
        ("spectral_norm_double_backward", (cotangents, grads, *rest)),
    ]


def _representable(x: Tensor) -> Tensor:
    """Values whose sigma, and its third power in the oracle's second order, float64 or float32 can hold.

    Beyond them the oracle itself overflows, or loses digits of subnormal numbers, and there is nothing to compare with.
    Weights of every size that a dtype has are in `test_extreme_weights`.
    """
    size = float(x.abs().nan_to_num(0.0, 0.0, 0.0).max()) if x.numel() else 0.0
    if 0 < size < 1e-280:
        return x * 1e290
    return x / 2.0**8 if 1e37 < size < 1e39 or size > 1e300 else x


def generate(draw: Draw) -> tuple[Any, ...]:
    """Arguments of random shapes and values."""
    weights, dims = [], []
    for _ in range(draw.integer(1, 3)):
        shape = tuple(draw.integer(0 if draw.boolean() else 1, 12) for _ in range(draw.integer(1, 4)))
        if all(n == 1 for n in shape):  # N is +-1 whatever W is: every derivative is zero, and computed as rounding
            shape = (*shape[:-1], 2)
        weights.append(_representable(draw.tensor(shape)))
        dims.append(draw.integer(0, len(shape) - 1))
    n = draw.integer(0, 3)
    vectors = [_representable(draw.tensor((length,))) for length in plain.sizes(weights, dims)]
    if n == 0:  # no iteration divides their length out
        vectors = [x / max(float(x.abs().nan_to_num(0.0, 0.0, 0.0).sum()), 1.0) for x in vectors]
    return weights, vectors[::2], vectors[1::2], dims, n, 1e-12


def cost(arguments: tuple[Any, ...], order: str, device: str) -> Cost:
    """The floor in passes over the weights: 3 forward and one more per further iteration, 4 backward, 8 beyond."""
    weights, n = arguments[0], arguments[4]
    elements = sum(w.numel() for w in weights)
    size = weights[0].element_size() * elements
    if order == "forward":
        return Cost(size * (2 + max(n, 1)), elements * (1 + max(2 * n, 1)))
    if order == "backward":
        return Cost(size * 4, elements * 3)
    return Cost(size * 8, elements * 7)


SPEC = OpSpec(
    name="spectral_norm",
    call=spectral_norm_group,
    reference=reference,
    orders=2,
    differentiable=(0,),
    operators=operators,
    samples=SAMPLES,
    generate=generate,
    cost=cost,
    edges=EDGES,
    smooth=True,
)
