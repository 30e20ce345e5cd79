"""What is installed, what runs, and why something does not."""

from __future__ import annotations

import importlib.util
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gankern import _environment, _libraries
from gankern._version import __version__
from gankern.backend import BACKENDS, OPS, pick


def _installed(package: str) -> str | None:
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _devices() -> list[dict[str, Any]]:
    cpu: dict[str, Any] = {
        "device": "cpu",
        "name": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "isa": _libraries.host.isa() if _libraries.host else None,
        "isa_supported": list(_libraries.host.isa_supported()) if _libraries.host else [],
    }
    devices = [cpu]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append(
                {
                    "device": f"cuda:{index}",
                    "name": properties.name,
                    "capability": f"{properties.major}.{properties.minor}",
                    "memory": properties.total_memory,
                }
            )
    return devices


def _reasons() -> dict[str, str]:
    """Why each backend cannot run here; an empty string where it can."""
    reasons = {name: _libraries.absent[name] for name in BACKENDS}
    for name in ("triton", "cuda"):
        if not reasons[name] and not (name == "triton" and _libraries.interpreted()) and not torch.cuda.is_available():
            reasons[name] = "no GPU was found"
    return reasons


def _picked(op: str, warnings: list[str]) -> str | None:
    if _environment.problems:
        return None
    try:
        return pick(op, torch.empty(0))
    except RuntimeError as error:
        warnings.append(str(error))
        return None


def info() -> dict[str, Any]:
    """Versions, devices and backends, as a dictionary that JSON can hold.

    Returns:
        `gankern`, `python`, `torch`, `triton`, `numpy`: versions (None where absent); `cuda`: torch's CUDA version or
        None; `devices`: one entry per device, the CPU first, with its instruction set (`isa`); `backends`: for each
        backend `available` and the `reason` where it is not; `ops`: for each op, which backends have kernels of it
        and which one runs on the CPU (None where none can, with the reason in `warnings`); `warnings`: what is wrong
        with the GANKERN_* environment.
    """
    warnings = list(_environment.problems)
    backends = {name: {"available": not reason, "reason": reason or None} for name, reason in _reasons().items()}
    ops = {}
    for name, op in sorted(OPS.items()):
        ops[name] = {
            "backends": [backend for backend in BACKENDS if not op.absent[backend]],
            "absent": {backend: reason for backend, reason in op.absent.items() if reason},
            "cpu": _picked(name, warnings),
            "cuda": op.gpu_default,
        }
    return {
        "gankern": __version__,
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "triton": _installed("triton"),
        "numpy": _installed("numpy"),
        "cuda": torch.version.cuda,
        "devices": _devices(),
        "backends": backends,
        "ops": ops,
        "warnings": warnings,
    }
