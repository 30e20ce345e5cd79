"""Which implementation of an op runs, why, and how to force one.

Every backend registers the same schemas in a namespace of its own (`gankern_reference`, `gankern_native`,
`gankern_triton`, `gankern_cuda`), so each implementation is an ordinary torch operator: it can be called, checked
and forced by itself. The public functions of `gankern.ops` ask `pick` for a backend and hand its name to their
autograd Functions, which call the operators of that backend at every order.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, TracebackType
from typing import Any

import torch

from gankern import _environment, _libraries
from gankern._environment import AUTO as _AUTO
from gankern._environment import BACKENDS

#: Native kernels exist for these dtypes on the CPU; GANKERN_REQUIRE_NATIVE=1 is about them.
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class _Forced(threading.local):
    # An instance attribute from the start: torch.compile guards on whether it is there.
    def __init__(self) -> None:
        self.name: str | None = None


_forced = _Forced()


class backend:
    """Forces one backend for every gankern op called in this thread, within a `with` block.

    Args:
        name: "auto", "native" (C++ on the CPU), "triton", "cuda" or "reference" (plain torch).

    Raises:
        ValueError: for an unknown name. An op that cannot run on a forced backend raises RuntimeError when it is
            called, naming the op, the dtype and the reason; only "auto" ever falls back.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or (name != _AUTO and name not in BACKENDS):
            raise ValueError(f"backend: name must be auto, {', '.join(BACKENDS)}; got {name!r}")
        self.name = name
        self._outer: list[str | None] = []

    def __enter__(self) -> backend:
        self._outer.append(_forced.name)
        _forced.name = self.name
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _forced.name = self._outer.pop()


@dataclass(frozen=True)
class Op:
    """One op in all its backends, as its `op.py` defined it."""

    name: str
    schemas: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    gpu_default: str
    #: Why a backend has no kernels of this op at all, by backend; empty where it has them.
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the registered operators, lowest order first."""
        return tuple(schema.split("(", 1)[0] for schema in self.schemas)


#: Every op defined so far, by name.
OPS: dict[str, Op] = {}

_definitions: list[torch.library.Library] = []


def define(
    package: str,
    schemas: Sequence[str],
    fakes: dict[str, Callable[..., Any]],
    *,
    checks: dict[str, Callable[..., None]] | None = None,
    dtypes: tuple[torch.dtype, ...] = FLOATING,
    gpu_default: str = "reference",
) -> Op:
    """Registers one op in every backend's namespace.

    Args:
        package: the op's package, which holds `reference.py` and may hold `triton_kernels.py`; both define
            functions with the operators' names.
        schemas: one operator schema per order, such as "minibatch_l1(Tensor m, bool include_self) -> Tensor".
        fakes: shape functions by operator name.
        checks: what the compiled libraries check in C++, for the Triton and reference operators: functions of the
            operators' arguments that raise.
        dtypes: dtypes that the compiled backends support; the reference supports whatever torch does.
        gpu_default: what "auto" uses on a GPU. Another than "reference" needs a committed result from a GPU.
    """
    name = package.rsplit(".", 1)[-1]
    op = Op(name, tuple(schemas), dtypes, gpu_default)
    reference = importlib.import_module(f"{package}.reference")
    has_triton = importlib.util.find_spec(f"{package}.triton_kernels") is not None
    for backend_name in BACKENDS:
        library = torch.library.Library(f"gankern_{backend_name}", "FRAGMENT")
        _definitions.append(library)
        for schema, function in zip(op.schemas, op.functions, strict=True):
            library.define(schema)
            if backend_name == "reference":
                run = checked(getattr(reference, function), (checks or {}).get(function))
                library.impl(function, run, "CompositeExplicitAutograd")
            elif backend_name == "triton" and has_triton:
                _register_triton(library, package, function, (checks or {}).get(function))
            torch.library.register_fake(f"gankern_{backend_name}::{function}", fakes[function], lib=library)
        op.absent[backend_name] = _why_absent(op, backend_name, has_triton)
    OPS[name] = op
    return op


def checked(run: Callable[..., Any], check: Callable[..., None] | None) -> Callable[..., Any]:
    """`run`, after a check of its arguments that raises."""
    if check is None:
        return run

    def run_checked(*arguments: Any) -> Any:
        check(*arguments)
        return run(*arguments)

    return run_checked


def _register_triton(
    library: torch.library.Library, package: str, function: str, check: Callable[..., None] | None
) -> None:
    def run(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f"{package}.triton_kernels"), function)(*arguments)

    launch = checked(run, check)

    library.impl(function, launch, "CUDA")
    if _libraries.interpreted():
        library.impl(function, launch, "CPU")


def _why_absent(op: Op, name: str, has_triton: bool) -> str:
    if _libraries.absent[name]:
        return _libraries.absent[name]
    if name == "triton" and not has_triton:
        return f"{op.name} has no Triton kernels"
    key = {"native": "CPU", "cuda": "CUDA"}.get(name)
    if key is None:
        return ""
    for function in op.functions:
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"gankern_{name}::{function}", key):
            return f"the {name} library has no {function}"
    return ""


def why_not(op: str, name: str, device_type: str, dtype: torch.dtype) -> str:
    """Why `op` cannot run on the backend `name` for this device type and dtype; an empty string if it can."""
    entry = OPS[op]
    if entry.absent[name]:
        return entry.absent[name]
    if name == "reference":
        return ""
    if dtype not in entry.dtypes:
        return f"{dtype} is not supported"
    device = "cpu" if name == "native" or (name == "triton" and _libraries.interpreted()) else "cuda"
    return "" if device_type == device else f"it runs on {device} tensors, not on {device_type}"


def pick(op: str, x: torch.Tensor) -> str:
    """The backend that runs `op` for tensors like `x`: the forced one, else the best that can.

    Raises:
        ValueError: a GANKERN_* variable has a value that means nothing.
        RuntimeError: a forced backend cannot run it, or GANKERN_REQUIRE_NATIVE=1 and a CPU op is not native.
    """
    if _environment.complaint:
        raise ValueError(_environment.complaint)
    device_type, dtype = x.device.type, x.dtype
    name = _forced.name or _environment.default_backend
    if name != _AUTO:
        reason = "" if device_type == "meta" else why_not(op, name, device_type, dtype)
        if reason:
            raise RuntimeError(f"{op}: backend {name!r} cannot run for {dtype} on {device_type}: {reason}")
        return name
    if device_type == "cuda":
        preferred = OPS[op].gpu_default
        return preferred if not why_not(op, preferred, device_type, dtype) else "reference"
    if device_type != "cpu":
        return "reference"
    reason = why_not(op, "native", device_type, dtype)
    if reason and _environment.require_native and dtype in FLOATING:
        raise RuntimeError(f"{op}: GANKERN_REQUIRE_NATIVE=1, but the native backend cannot run {dtype}: {reason}")
    return "reference" if reason else "native"


def operator(backend_name: str, function: str) -> Any:
    """The registered operator (an OpOverload) of one backend."""
    return getattr(getattr(torch.ops, "gankern_" + backend_name), function).default


def discover() -> dict[str, ModuleType]:
    """The `samples` module of every op, by op name: what the tests and the benchmarks run over."""
    import pkgutil

    import gankern.ops

    found = {}
    for entry in pkgutil.iter_modules(gankern.ops.__path__):
        if entry.ispkg:
            found[entry.name] = importlib.import_module(f"gankern.ops.{entry.name}.samples")
    return found
