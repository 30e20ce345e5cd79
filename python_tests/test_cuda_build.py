"""The CUDA library compiles and links wherever nvcc is, and registers every operator; no GPU is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gankern.backend import OPS

pytestmark = pytest.mark.gate

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path.parent.name for path in ROOT.glob("csrc/*/cuda.cu"))

REPORT = """
import ctypes, os, sys, torch, gankern
ctypes.CDLL(sys.argv[1], mode=os.RTLD_LAZY)  # a symbol that this torch lacks is looked up when it is called, if ever
for name in sys.argv[2:]:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name
"""


def tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is needed for the gates"
    return found


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("cuda")
    configure = [tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DGANKERN_CUDA=1"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-DGANKERN_TORCH={Path(torch.__file__).parent}", "-DGANKERN_CUDA_ARCHITECTURES=90-real"]
    for command in (configure, [tool("cmake"), "--build", str(build), "--target", "gankern_cuda"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return build / "libgankern_cuda.so"


def test_it_registers_every_operator_of_every_source(library: Path) -> None:
    names = [f"gankern_cuda::{function}" for op in SOURCES for function in OPS[op].functions]
    assert names
    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(library), *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_it_needs_only_torchs_stable_interface(library: Path) -> None:
    """Nothing of ATen or c10, no CUDA runtime beside it: one library serves every torch from 2.11 on."""
    symbols = subprocess.run(["nm", "-D", "-C", "--undefined-only", str(library)], capture_output=True, check=True)
    wanted = [line.split()[-1] for line in symbols.stdout.decode().splitlines()]
    assert "aoti_torch_get_current_cuda_stream" in wanted
    assert not [name for name in wanted if name.startswith(("at::", "c10::", "cuda", "__cuda"))]
    needed = subprocess.run(["readelf", "-d", str(library)], capture_output=True, check=True).stdout.decode()
    assert "libcudart" not in needed
