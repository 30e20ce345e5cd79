"""What the contract runs over: ops by discovery, backends that this machine has, samples, and cached oracles."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

import gankern as gk
from contract import budget
from gankern import _libraries
from gankern.backend import BACKENDS, OPS, discover, why_not
from gankern.ops._samples import OpSpec, Sample

SPECS: dict[str, OpSpec] = {name: module.SPEC for name, module in discover().items()}
INTERPRETED = _libraries.interpreted()


@dataclass(frozen=True)
class Runner:
    """One backend on one device, at one instruction set where it has several."""

    backend: str
    device: str = "cpu"
    isa: str | None = None

    @property
    def name(self) -> str:
        return self.backend + (f"-{self.isa}" if self.isa else "") + (f"-{self.device}" if self.device != "cpu" else "")

    @contextmanager
    def forced(self) -> Iterator[None]:
        before = _libraries.host.isa() if self.isa else None
        if self.isa:
            _libraries.host.set_isa(self.isa)
        try:
            with gk.backend(self.backend):
                yield
        finally:
            if self.isa:
                _libraries.host.set_isa(before)


def runners(op: str, every_isa: bool = False) -> list[Runner]:
    """The backends that can run an op here. A missing native backend is an error where it is required."""
    if INTERPRETED:
        return [] if OPS[op].absent["triton"] else [Runner("triton")]
    found = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for backend in BACKENDS:
            reason = why_not(op, backend, device, torch.float32)
            if backend == "native" and device == "cpu" and reason and os.environ.get("GANKERN_REQUIRE_NATIVE") == "1":
                raise RuntimeError(f"{op}: GANKERN_REQUIRE_NATIVE=1, but {reason}")
            if reason:
                continue
            levels = _libraries.host.isa_supported() if backend == "native" and every_isa else [None]
            found += [Runner(backend, device, level) for level in levels]
    return found


def mark(runner: Runner) -> list[pytest.MarkDecorator]:
    return [pytest.mark.gpu] if runner.device == "cuda" else []


def parameters(every_isa: bool = False, orders: int = 0) -> list:
    """(spec, runner) for every op differentiable at least `orders` times."""
    return [
        pytest.param(spec, runner, id=f"{op}-{runner.name}", marks=mark(runner))
        for op, spec in SPECS.items()
        if spec.orders >= orders
        for runner in runners(op, every_isa)
    ]


def op_parameters(orders: int = 0) -> list:
    return [pytest.param(spec, id=op) for op, spec in SPECS.items() if spec.orders >= orders and runners(op)]


def samples(spec: OpSpec) -> tuple[Sample, ...]:
    return spec.tagged("interpret" if INTERPRETED else "test")


def dtypes(spec: OpSpec) -> tuple[torch.dtype, ...]:
    """The interpreter cuts float32 to bfloat16 where a GPU rounds, and float64 is the oracle's own dtype."""
    return (torch.float32, torch.float16) if INTERPRETED else spec.dtypes


def generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def smallest(spec: OpSpec) -> Sample:
    """The first sample: small, and smooth around its values, as gradcheck needs."""
    return spec.samples[0]


@functools.cache
def case(op: str, sample: Sample, dtype: torch.dtype) -> budget.Case:
    """A sample with normal cotangents, and its oracle: computed once for all backends."""
    seeded = generator(f"{op} {sample.name}")

    def normal(shapes: list[torch.Size]) -> list[torch.Tensor]:
        return [torch.randn(shape, generator=seeded, dtype=torch.float64) for shape in shapes]

    return budget.prepare(SPECS[op], sample.make(seeded), dtype, normal)
