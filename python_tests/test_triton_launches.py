"""What the Triton launchers ask for is what the resource gate compiles. No GPU and no compilation is needed."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from gates.triton_resources import aligned
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from gankern.ops._triton import NAMES, AotSpec
from gankern.ops.minibatch_l1 import triton_kernels

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels have no binaries"
)

KERNELS = ("_pack", "_forward", "_derivative")
ORDERS = ("forward", "backward", "double_backward")
FEW, MANY = 64, 1024
B = 100

# (kernel, for each argument its type and value or alignment): what Triton keeps one binary for.
Binary = tuple[str, tuple[tuple[str, Any], ...]]


class Recorder:
    """Stands for a kernel and writes down which binary a launch would run."""

    def __init__(self, kernel: Any, seen: list[Binary]) -> None:
        self._kernel, self._seen = kernel, seen

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        bind = create_function_from_signature(
            self._kernel.signature, self._kernel.params, make_backend(GPUTarget("cuda", 90, 32))
        )

        def launch(
            *arguments: Any, num_warps: int, num_stages: int, enable_fp_fusion: bool = True, **constexprs: Any
        ) -> None:
            _, found, _ = bind(*arguments, **constexprs)
            self._seen.append((self._kernel.fn.__name__, tuple((kind, value or 0) for kind, value in found)))

        return launch


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives the binaries that an order runs; its inputs begin `offset` elements into a buffer."""
    seen: list[Binary] = []
    for name in KERNELS:
        monkeypatch.setattr(triton_kernels, name, Recorder(getattr(triton_kernels, name), seen))

    def launch(order: str, n: int, c: int, dtype: torch.dtype, offset: int = 0) -> set[Binary]:
        def new(*shape: int) -> torch.Tensor:
            return torch.empty(offset + n * B * c, dtype=dtype)[offset:][: torch.Size(shape).numel()].view(shape)

        m, v, grad = new(n, B, c), new(n, B, c), new(n, B)
        arguments = {"forward": (m, False), "backward": (grad, m), "double_backward": (v, grad, m)}[order]
        seen.clear()
        getattr(triton_kernels, "minibatch_l1" + f"_{order}" * (order != "forward"))(*arguments)
        return set(seen)

    return launch


def compiled_by(specs: list[AotSpec]) -> set[Binary]:
    """The binaries that the gate makes of them."""
    found = set()
    for spec in specs:
        assumed = [p.name for p in aligned(spec.kernel)]
        arguments = []
        for name, kind in spec.signature.items():
            value = spec.constexprs[name] if kind == "constexpr" else "D" if name in assumed else 0
            arguments.append((kind, value or 0))
        found.add((spec.kernel.fn.__name__, tuple(arguments)))
    return found


@pytest.fixture(scope="module")
def compiled() -> set[Binary]:
    """The binaries that the gate makes of minibatch_l1."""
    return compiled_by(triton_kernels.aot_specs())


GATED = {torch.float64: (8, 16, 32, 64), torch.float32: (5, 8, 16, 32, 64)} | dict.fromkeys(
    (torch.bfloat16, torch.float16), (5, 16)
)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("offset", [0, 1])
def test_launches_run_the_binaries_of_the_gate(compiled, launched, order: str, dtype: torch.dtype, offset: int) -> None:
    for c in GATED[dtype]:
        for n in (MANY,) if dtype.itemsize == 2 else (FEW, MANY):
            binaries = launched(order, n, c, dtype, offset)
            assert len(binaries) == 2
            assert binaries <= compiled, (c, n)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=NAMES.get)
def test_the_gate_has_every_line_of_the_static_table_at_its_largest_c(dtype: torch.dtype) -> None:
    def line(tiling: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(tiling.get(key) for key in ("ROWS", "FAR", "SPAN", "SECOND"))

    held: dict[tuple[Any, ...], int] = {}
    for spec in triton_kernels.aot_specs():
        if spec.signature.get("out", spec.signature.get("dm")) == f"*{NAMES[dtype]}" and "HELD" in spec.constexprs:
            held[line(spec.constexprs)] = max(held.get(line(spec.constexprs), 0), spec.constexprs["HELD"])
    for order in range(3):
        for n in (FEW, MANY):
            for c in range(1, 70):
                tiling = triton_kernels._tiling(order, n, B, c, dtype)
                assert tiling["HELD"] <= held[line(tiling)], (order, n, c)
