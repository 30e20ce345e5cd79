"""What the Triton launchers of all ops share, and what they declare to the resource gate."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Triton's names of the dtypes under the contract.
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class AotSpec:
    """One kernel in one configuration, as `python_tests/test_gates.py` compiles it without a GPU.

    A module `gankern/ops/<op>/triton_kernels.py` lists all that it can launch in `aot_specs()`.

    Attributes:
        name: unique within the op; the row of the resource table.
        kernel: the jitted function.
        signature: Triton type by argument name, "constexpr" included.
        constexprs: values of the constexpr arguments.
        num_warps: as launched.
        num_stages: as launched.
        element: a regular expression that matches once per element of the inner loop in the SASS of the hottest
            loop, so that its instructions can be counted per element; empty for no count.
        floor: instructions per element that the arithmetic needs; 0 where one loop does not hold all of it.
        may_spill: fp64 variants may.
        fusion: whether the compiler may contract a product and a sum; as launched (`enable_fp_fusion`).
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 1
    element: str = ""
    floor: int = 0
    may_spill: bool = False
    fusion: bool = True


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes x's GPU current, where Triton launches; nothing for the interpreter's CPU tensors."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else contextlib.nullcontext()


def ceil_div(a: int, b: int) -> int:
    """The quotient of non-negative integers, rounded up."""
    return -(-a // b)


def discover() -> dict[str, list[AotSpec]]:
    """Everything that the Triton kernels of each op can launch, by op. Needs Triton, but no GPU."""
    import gankern.ops

    found = {}
    for entry in pkgutil.iter_modules(gankern.ops.__path__):
        module = f"gankern.ops.{entry.name}.triton_kernels"
        if entry.ispkg and importlib.util.find_spec(module) is not None:
            found[entry.name] = list(importlib.import_module(module).aot_specs())
    return found
