"""Random tensors of every value class and memory layout, seeded: a case is reproduced from what hypothesis prints."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

BASES = ("normal", "wide", "ties", "zeros", "huge", "subnormal")
SPECIALS = ("none", "none", "nan", "inf", "-inf", "zero", "all")
LAYOUTS = ("contiguous", "transposed", "sliced", "offset", "channels-last", "expanded", "all-expanded", "odd-strides")


def fill(base: str, special: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """A float64 tensor whose values are meant for `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    info = torch.finfo(dtype)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if base == "wide":
        x = x.sign() * torch.exp2(torch.rand(shape, generator=generator, dtype=torch.float64) * 16 - 11)
    elif base == "ties":
        x = (2 * x).round() / 4
    elif base == "zeros":
        x = torch.where(x < 0, -0.0, 0.0)
    elif base == "huge":
        x = (x / 4).clamp(-1, 1) * (info.max / 4)
    elif base == "subnormal":
        x = x * info.tiny * 2.0 ** torch.randint(-6, 2, shape, generator=generator)
    if special != "none" and x.numel():
        some = torch.rand(shape, generator=generator) < 0.03
        some.view(-1)[torch.randint(x.numel(), (1,), generator=generator)] = True
        values = {"nan": [torch.nan], "inf": [torch.inf], "-inf": [-torch.inf], "zero": [0.0]}
        choice = torch.tensor(values.get(special, [torch.nan, torch.inf, -torch.inf, 0.0]), dtype=torch.float64)
        x = torch.where(some, choice[torch.randint(len(choice), shape, generator=generator)], x)
    return x


def lay(x: Tensor, layout: str) -> Tensor:
    """The values of x in another memory layout; memory beside them is NaN. The expanded layouts repeat values of x."""
    if x.dim() == 0 or layout == "contiguous":
        return x.clone(memory_format=torch.contiguous_format)
    if layout == "transposed":
        return x.mT.contiguous().mT if x.dim() > 1 else x.clone()
    if layout == "channels-last":
        order = (0, *range(2, x.dim()), 1) if x.dim() > 1 else (0,)
        inverse = [order.index(k) for k in range(x.dim())]
        return x.permute(order).contiguous().permute(inverse)
    if layout == "expanded":
        dim = x.dim() // 2
        return x.narrow(dim, 0, min(1, x.shape[dim])).expand(x.shape) if x.shape[dim] else x.clone()
    if layout == "all-expanded":
        return x.reshape(-1)[0].clone().expand(x.shape) if x.numel() else x.clone()
    if layout == "odd-strides":
        x = x.clone(memory_format=torch.contiguous_format)
        return x.as_strided(
            x.shape, [12345 if n == 1 else stride for n, stride in zip(x.shape, x.stride(), strict=True)]
        )
    step = 2 if layout == "sliced" else 1
    memory = x.new_full([step * n + 3 for n in x.shape], torch.nan if x.is_floating_point() else 7)
    view = memory[tuple(slice(1, 1 + step * n, step) for n in x.shape)]
    view.copy_(x)
    return view


class HypothesisDraw:
    """The `Draw` that an op's `generate` gets: shapes from hypothesis, values from drawn classes and seeds."""

    def __init__(
        self, data: st.DataObject, dtype: torch.dtype, largest: int | None = None, smooth: bool = False
    ) -> None:
        self.data, self.dtype, self.largest, self.smooth = data, dtype, largest, smooth
        # Sizes drawn one by one come back in the mutations that hypothesis tries, and most cases would be alike.
        self.random = data.draw(st.randoms(use_true_random=True), label="sizes")

    def integer(self, low: int, high: int) -> int:
        """Small sizes three times of four: cases stay cheap, and small ones find most faults."""
        if self.largest is not None:
            high = min(high, self.largest)
        return self.random.randint(low, min(high, low + 9) if self.random.random() < 0.75 else high)

    def boolean(self) -> bool:
        return self.data.draw(st.booleans(), label="boolean")

    def tensor(self, shape: tuple[int, ...]) -> Tensor:
        return self.values(tuple(shape), BASES)

    def cotangent(self, shape: tuple[int, ...]) -> Tensor:
        """As a tensor, but never huge: products of huge cotangents overflow by design.

        Nor subnormal in float64 for a smooth op, whose contractions lose those digits in the oracle itself.
        """
        without = ("huge", "subnormal") if self.smooth and self.dtype == torch.float64 else ("huge",)
        return self.values(tuple(shape), tuple(base for base in BASES if base not in without))

    def values(self, shape: tuple[int, ...], bases: tuple[str, ...]) -> Tensor:
        base = self.data.draw(st.sampled_from(bases), label="base")
        special = self.data.draw(st.sampled_from(SPECIALS), label="special")
        seed = self.data.draw(st.integers(0, 2**31), label="seed")
        return self.laid(fill(base, special, shape, self.dtype, seed))

    def laid(self, x: Tensor) -> Tensor:
        return lay(x, self.data.draw(st.sampled_from(LAYOUTS), label="layout"))
