"""Who takes part: what users type in plain torch, torch.compile of it, and gankern under each backend.

Peers that need other packages live in the checkout's `benchmarks/providers/<op>.py`.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gankern.backend import OPS, backend, why_not
from gankern.bench.workload import Case
from gankern.ops._samples import OpSpec


def _always(case: Case) -> str:
    return ""


@dataclass(frozen=True)
class Provider:
    """One way to compute an op.

    Attributes:
        name: a column of the table.
        make: gives a function with the op's signature; called once per case, outside the timing.
        why_not: why it cannot take part in a case, in a few words; an empty string if it can.
        ours: whether it is gankern, and so gets a ratio and a fraction of the floor.
    """

    name: str
    make: Callable[[], Callable[..., Any]]
    why_not: Callable[[Case], str] = _always
    ours: bool = False


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy with a code object of its own, so that torch.compile keeps its cache apart from other copies'."""
    if not isinstance(function, types.FunctionType):
        return function
    code = function.__code__.replace()
    copy = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _typed(spec: OpSpec) -> Callable[..., Any]:
    return spec.baseline or spec.reference


def _compiled(spec: OpSpec, dynamic: bool) -> Provider:
    def make() -> Callable[..., Any]:
        return torch.compile(_own_code(_typed(spec)), dynamic=dynamic, fullgraph=False)

    def reason(case: Case) -> str:
        return "torch.compile has no double backward" if case.order == "double" else ""

    return Provider(f"compile-{'dynamic' if dynamic else 'static'}", make, reason)


def _gankern(spec: OpSpec, name: str) -> Provider:
    def make() -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with backend(name):
                return spec.call(*arguments)

        return call

    def reason(case: Case) -> str:
        return why_not(spec.name, name, case.device, case.dtype)

    return Provider(f"gankern-{name}", make, reason, ours=True)


def builtin(spec: OpSpec, device: str) -> list[Provider]:
    """The providers that need nothing but an installed gankern."""
    found = [Provider("eager", lambda: _typed(spec)), _compiled(spec, dynamic=True), _compiled(spec, dynamic=False)]
    if spec.name not in OPS:  # composed of other ops: it has no backends of its own
        return [*found, Provider("gankern", lambda: spec.call, ours=True)]
    return found + [_gankern(spec, name) for name in (("native",) if device == "cpu" else ("triton", "cuda"))]


def peers(package: str | None, op: str) -> list[Provider]:
    """What `package`.<op> lists in PEERS; nothing if there is no such module."""
    if package is None or importlib.util.find_spec(f"{package}.{op}") is None:
        return []
    return list(importlib.import_module(f"{package}.{op}").PEERS)


def all_providers(spec: OpSpec, device: str, package: str | None) -> list[Provider]:
    """Built-in providers and peers; gankern's own last."""
    found = builtin(spec, device)
    return [p for p in found if not p.ours] + peers(package, spec.name) + [p for p in found if p.ours]
