"""Loads the native libraries once, and remembers why one is not there. Nothing here ever compiles."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch

from gankern._host_ctypes import Host

PACKAGE = Path(__file__).parent

#: Why a library is absent, by its name; an empty string if it is loaded.
absent: dict[str, str] = {}


def _build_report() -> dict[str, str]:
    try:
        report = json.loads((PACKAGE / "_build.json").read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(reason) for name, reason in report.items()}


def _load(name: str, file: str, report: dict[str, str]) -> str:
    """Loads one operator library; returns why it could not be, or an empty string."""
    path = PACKAGE / file
    if not path.exists():
        return report.get(name) or f"{file} was not built (a source checkout needs `pip install -e .`)"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{file} could not be loaded: {error.__cause__ or error}"
    return ""


def _load_host() -> Any:
    """The torch-free library: by pybind11, by ctypes, or None where it was not built."""
    try:
        return importlib.import_module("gankern._host")
    except ImportError:
        pass
    try:
        return Host(PACKAGE / "libgankern_core.so")
    except OSError:
        return None


_report = _build_report()
host = _load_host()
absent["native"] = _load("native", "libgankern_native.so", _report)
if not torch.version.cuda:
    absent["cuda"] = "this torch was built without CUDA"
else:
    absent["cuda"] = _load("cuda", "libgankern_cuda.so", _report)


def interpreted() -> bool:
    """True where Triton kernels run on CPU tensors, through Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_no_triton() -> str:
    # CUDA is not asked for a device here: that would initialise its driver at import, before a fork perhaps.
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpreted() or torch.version.cuda or torch.version.hip:
        return ""
    return "this torch was built without a GPU (TRITON_INTERPRET=1 runs Triton kernels on CPU tensors, slowly)"


absent["triton"] = _why_no_triton()
absent["reference"] = ""
