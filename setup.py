"""Builds gankern's native libraries by calling CMake; pyproject.toml says all the rest.

Without a C++ compiler, CMake, Ninja or torch's headers the result is a working pure-Python package, which says what
is missing (`gankern info`). GANKERN_REQUIRE_NATIVE=1 makes such a gap a build error, GANKERN_CUDA=1|0 forces the CUDA
library on or off, GANKERN_BUILD_DIR keeps the build tree elsewhere, GANKERN_CMAKE_ARGS is passed on to CMake.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class Missing(Exception):
    """Something that the native build needs is not there; the message says what and how to get it."""


def find_program(name: str) -> str:
    """The program from PyPI's package beside this interpreter, else from PATH."""
    beside = Path(sys.executable).parent / name
    if found := str(beside) if beside.exists() else shutil.which(name):
        return found
    raise Missing(f"{name} was not found (pip install {name})")


def find_torch() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise Missing("torch is not installed in the build environment (install torch, then use --no-build-isolation)")
    folder = Path(spec.origin).parent
    if not (folder / "include/torch/csrc/stable/library.h").exists():
        raise Missing("torch's C++ headers with the stable ABI were not found (torch >= 2.11 is needed)")
    return folder


def setting(variable: str) -> str:
    value = os.environ.get(variable, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"gankern: {variable}: expected 0, 1; got {value!r}")
    return value


def wants_cuda() -> bool:
    if forced := setting("GANKERN_CUDA"):
        return forced == "1"
    probe = "import torch, sys; sys.exit(0 if torch.version.cuda else 1)"
    has_cuda = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0
    return has_cuda and shutil.which("nvcc") is not None


class CMakeBuild(build_ext):
    """Runs CMake for the whole package; the listed Extension only tells setuptools that the wheel is not pure."""

    def run(self) -> None:
        in_place = self.inplace or getattr(self, "editable_mode", False)
        output = (ROOT if in_place else Path(self.build_lib).resolve()) / "gankern"
        output.mkdir(parents=True, exist_ok=True)
        required, wanted = setting("GANKERN_REQUIRE_NATIVE") == "1", wants_cuda()
        native, cuda = "", "not built: torch has no CUDA or nvcc was not found (GANKERN_CUDA=1 forces it)"
        try:
            self.cmake(output, cuda=wanted)
            cuda = "" if wanted else cuda
        except Missing as reason:
            native = cuda = str(reason)
        if native and wanted:  # the CPU's libraries must not be lost with a CUDA build that failed
            with contextlib.suppress(Missing):
                self.cmake(output, cuda=False)
                native = ""
        # What an earlier build left must not be loaded in the place of what this one could not make.
        for pattern in ["libgankern_cuda.so"] * bool(cuda) + ["libgankern*.so", "_host*.so"] * bool(native):
            for path in output.glob(pattern):
                path.unlink()
        if missing := native or (cuda if wanted else ""):
            if required:
                raise SystemExit(f"gankern: GANKERN_REQUIRE_NATIVE=1, but {missing}")
            print(f"gankern: {'pure-Python install' if native else 'no CUDA library'}: {missing}", file=sys.stderr)
        (output / "_build.json").write_text(json.dumps({"native": native, "cuda": cuda}, indent=2) + "\n")

    def cmake(self, output: Path, cuda: bool) -> None:
        cmake, ninja, torch = find_program("cmake"), find_program("ninja"), find_torch()
        if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")):
            raise Missing("no C++ compiler was found (install g++ or set CXX)")
        if cuda and shutil.which("nvcc") is None:
            raise Missing("GANKERN_CUDA=1 needs nvcc on PATH")
        build = Path(os.environ.get("GANKERN_BUILD_DIR") or ROOT / "build/cmake").resolve()
        options = [f"-DGANKERN_OUTPUT={output}", f"-DGANKERN_TORCH={torch}", f"-DGANKERN_CUDA={int(cuda)}"]
        options += [f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        pybind11 = importlib.util.find_spec("pybind11")
        if pybind11 is not None and pybind11.origin is not None:
            options.append(f"-Dpybind11_DIR={Path(pybind11.origin).parent / 'share/cmake/pybind11'}")
        options += shlex.split(os.environ.get("GANKERN_CMAKE_ARGS", ""))
        configure = [cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options]
        for command in (configure, [cmake, "--build", str(build)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            sys.stdout.write(done.stdout)
            sys.stderr.write(done.stderr)
            if done.returncode:
                end = (done.stdout + done.stderr).strip()[-1500:]
                raise Missing(f"the native build failed; the end of its output:\n{end}")

    def get_outputs(self) -> list[str]:
        return []  # setuptools knows none of CMake's files

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(ext_modules=[Extension("gankern._host", sources=[])], cmdclass={"build_ext": CMakeBuild})
