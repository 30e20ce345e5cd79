"""What an op's `samples.py` declares: one registry that feeds the contract test, the gates and the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


class Draw(Protocol):
    """How `OpSpec.generate` asks for random inputs: hypothesis in the tests, a seeded generator elsewhere."""

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""

    def boolean(self) -> bool:
        """True or False."""

    def tensor(self, shape: tuple[int, ...]) -> Tensor:
        """A float64 tensor of this shape, of any value class; the test chooses dtype and strides later."""


def bounded(x: Tensor, largest: float) -> Tensor:
    """x, scaled down where finite elements are larger: huge sums overflow or not by the order of adding alone."""
    size = x.abs()
    if not ((size > largest) & size.isfinite()).any():
        return x
    most = torch.where(size.isfinite(), size, 0).max()
    return x * (largest / most)


@dataclass(frozen=True)
class Sample:
    """One named input.

    Attributes:
        name: short, with the sizes in it; a test id.
        make: gives the arguments from a seeded generator, floating tensors in float64 on the CPU.
        tags: "test" for the contract test, "interpret" for sizes that Triton's interpreter can bear, "bench" for
            the benchmark's sizes, "memory" for one whose peak memory is checked.
    """

    name: str
    make: Callable[[torch.Generator], tuple[Any, ...]]
    tags: frozenset[str] = frozenset({"test"})


@dataclass(frozen=True)
class Cost:
    """What the arithmetic needs at the very least.

    Attributes:
        bytes: memory traffic, each input read once and each output written once.
        instructions: floating-point instructions per vector lane (a fused multiply-add is one).
    """

    bytes: int
    instructions: int


@dataclass(frozen=True)
class OpSpec:
    """All that the generic tests and benchmarks need to know of an op.

    Attributes:
        name: the op.
        call: the public function.
        reference: the same in plain torch, differentiable by torch's own autograd: the oracle of every order.
        orders: how often it is differentiable (0, 1 or 2).
        differentiable: positions of the arguments with gradients.
        operators: from the arguments of a sample, each registered operator with arguments for it.
        samples: named inputs.
        generate: arguments of random shapes and values.
        cost: the floor of one order ("forward", "backward", "double_backward") on "cpu" or "cuda".
        dtypes: dtypes under the contract.
        edges: argument tuples around every tile edge and for empty and single-row input, as samples.
        independent_axis: an axis of the differentiable arguments and of every output along which the op works
            independently, if there is one: the benchmark's float64 oracle then runs in pieces, in little memory.
        baseline: what users type in torch, for the benchmark's "eager" and "compile"; the reference, if that is it.
        smooth: the op has no ties or kinks, but contractions of the whole input: the test's error budget may then move
            each input element by itself, compares derivatives that overflow by finiteness alone, and draws no subnormal
            float64 cotangents. Every other op is judged without this leniency.
    """

    name: str
    call: Callable[..., Any]
    reference: Callable[..., Any]
    orders: int
    differentiable: tuple[int, ...]
    operators: Callable[[tuple[Any, ...], torch.Generator], list[tuple[str, tuple[Any, ...]]]]
    samples: tuple[Sample, ...]
    generate: Callable[[Draw], tuple[Any, ...]]
    cost: Callable[[tuple[Any, ...], str, str], Cost]
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    edges: tuple[Sample, ...] = field(default=())
    independent_axis: int | None = None
    baseline: Callable[..., Any] | None = None
    smooth: bool = False

    def tagged(self, tag: str) -> tuple[Sample, ...]:
        """The samples and edges with a tag."""
        return tuple(s for s in (*self.samples, *self.edges) if tag in s.tags)
