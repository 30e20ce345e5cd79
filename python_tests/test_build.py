"""Installing without a compiler or torch's headers, and what is said about it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources without anything built."""
    copy = tmp_path_factory.mktemp("source") / "gankern"
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "_build.json")
    copy.mkdir()
    for folder in ("csrc", "gankern"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for file in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy / file)
    return copy


def run(source: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("GANKERN_") and k not in ("CXX", "CC", "PYTHONPATH")
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=source, env={**kept, **variables}, capture_output=True, text=True, timeout=300
    )


def build(source: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(source, "setup.py", "-q", "build_ext", "--inplace", **variables)


def test_without_a_compiler_the_install_is_pure_python_and_says_so(source: Path, tmp_path: Path) -> None:
    done = build(source, PATH=str(tmp_path), GANKERN_BUILD_DIR=str(tmp_path / "build"))
    assert done.returncode == 0, done.stderr
    assert "pure-Python install: no C++ compiler was found" in done.stderr
    assert "no C++ compiler" in json.loads((source / "gankern/_build.json").read_text())["native"]
    assert not list((source / "gankern").glob("*.so"))

    program = """
import json, torch, gankern as gk
assert gk.__file__.startswith({source!r}), gk.__file__
x = torch.randn(5, 3, 2, requires_grad=True)
gk.ops.minibatch_l1(x).sum().backward()
print(json.dumps(gk.info()))
"""
    done = run(source, "-c", program.format(source=str(source)), PYTHONPATH=str(source))
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)
    assert info["backends"]["native"] == {
        "available": False,
        "reason": "no C++ compiler was found (install g++ or set CXX)",
    }
    assert info["ops"]["minibatch_l1"]["cpu"] == "reference"


def test_a_required_native_backend_that_is_missing_is_an_error_at_build_and_at_call(
    source: Path, tmp_path: Path
) -> None:
    done = build(source, PATH=str(tmp_path), GANKERN_REQUIRE_NATIVE="1", GANKERN_BUILD_DIR=str(tmp_path / "build"))
    assert done.returncode != 0
    assert "GANKERN_REQUIRE_NATIVE=1, but no C++ compiler was found" in done.stderr

    program = "import torch, gankern as gk; gk.ops.minibatch_l1(torch.ones(2, 2, 2))"
    done = run(source, "-c", program, PYTHONPATH=str(source), GANKERN_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "minibatch_l1: GANKERN_REQUIRE_NATIVE=1, but the native backend cannot run torch.float32" in done.stderr


def test_without_torch_headers_the_reason_is_stored(source: Path, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("class version:\n    cuda = None\n")
    done = build(source, PYTHONPATH=str(tmp_path), GANKERN_BUILD_DIR=str(tmp_path / "build"))
    assert done.returncode == 0, done.stderr
    assert (
        "C++ headers with the stable ABI were not found"
        in json.loads((source / "gankern/_build.json").read_text())["native"]
    )


def test_a_broken_compiler_leaves_a_working_package_with_the_end_of_its_output(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho this compiler is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    done = build(source, CXX=str(broken), GANKERN_BUILD_DIR=str(tmp_path / "build"))
    assert done.returncode == 0, done.stderr
    assert "the native build failed" in json.loads((source / "gankern/_build.json").read_text())["native"]


def test_an_older_build_is_not_left_in_the_place_of_one_that_failed(source: Path, tmp_path: Path) -> None:
    stale = [source / "gankern" / name for name in ("libgankern_native.so", "libgankern_core.so", "libgankern_cuda.so")]
    for path in stale:
        path.write_text("old")
    done = build(source, PATH=str(tmp_path), GANKERN_BUILD_DIR=str(tmp_path / "build"))
    assert done.returncode == 0, done.stderr
    assert not [path for path in stale if path.exists()]


@pytest.mark.parametrize("variable", ["GANKERN_CUDA", "GANKERN_REQUIRE_NATIVE"])
def test_a_build_variable_that_means_nothing(source: Path, tmp_path: Path, variable: str) -> None:
    done = build(source, PATH=str(tmp_path), GANKERN_BUILD_DIR=str(tmp_path / "build"), **{variable: "yes"})
    assert done.returncode != 0
    assert f"{variable}: expected 0, 1; got 'yes'" in done.stderr


@pytest.mark.slow
def test_a_broken_nvcc_does_not_cost_the_cpu_libraries(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "nvcc"
    broken.write_text("#!/bin/sh\necho this nvcc is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    options = {"PATH": path, "CUDACXX": str(broken), "GANKERN_CUDA": "1", "GANKERN_BUILD_DIR": str(tmp_path / "build")}
    options["GANKERN_CMAKE_ARGS"] = "-DCMAKE_BUILD_TYPE=Debug"  # nothing is optimised: seconds, not a minute
    done = build(source, **options)
    assert done.returncode == 0, done.stderr
    report = json.loads((source / "gankern/_build.json").read_text())
    assert report["native"] == ""
    assert "the native build failed" in report["cuda"]
    assert (source / "gankern/libgankern_native.so").exists()
    done = build(source, **options, GANKERN_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "GANKERN_REQUIRE_NATIVE=1, but the native build failed" in done.stderr
