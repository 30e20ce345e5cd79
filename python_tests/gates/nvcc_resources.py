"""Compiles every csrc/<op>/cuda.cu with the command of the build itself, without a GPU, and reads what ptxas says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .sass import disassemble, hottest_loop

ROOT = Path(__file__).resolve().parents[2]
ELEMENT = r"\|R\d+\|"

#: Instructions that an element needs at each order, by op and kernel. A wide_kernel visits an element in several loops,
#: of which the table counts one: it has no floor. An op that is not here is bound by memory, and none are counted.
FLOORS = {"minibatch_l1": {"row_kernel": (2, 5, 8)}}


def floor(op: str, kernel: str) -> dict[str, int]:
    """The floor of a kernel by its demangled name; empty if it has none."""
    name = re.search(r"(\w+)<\([\w:]+::Order\)(\d)", kernel)
    return {"floor": FLOORS[op][name[1]][int(name[2])]} if name and name[1] in FLOORS.get(op, {}) else {}


_REPORT = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>sm_\d+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?P<rest>[^\n]*)",
    re.DOTALL,
)


def nvcc() -> str:
    """The path of nvcc, or an empty string."""
    installed = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which("nvcc") or (str(installed) if installed.exists() else "")


def release(compiler: str) -> str:
    """The release of nvcc, such as "13.0"."""
    text = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release (\S+),", text)[1]


def configure(build: Path, compiler: str) -> list[dict[str, str]]:
    """Configures the build with CUDA in `build` and returns its compile commands."""
    import torch

    def program(name: str) -> str:
        beside = Path(sys.executable).parent / name
        return str(beside) if beside.exists() else name

    command = [program("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
    command += [f"-DGANKERN_OUTPUT={build}", f"-DGANKERN_TORCH={Path(torch.__file__).parent}", "-DGANKERN_CUDA=1"]
    command += [f"-DCMAKE_MAKE_PROGRAM={program('ninja')}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command += [f"-DCMAKE_CUDA_COMPILER={compiler}", f"-DPython_EXECUTABLE={sys.executable}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cmake could not configure the CUDA build:\n{(done.stdout + done.stderr)[-2000:]}")
    return json.loads((build / "compile_commands.json").read_text())


def parse(log: str) -> dict[str, dict[str, int]]:
    """Registers, bytes spilled and shared memory of each kernel in ptxas' log, by architecture and mangled name."""
    found = {}
    for match in _REPORT.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found[f"{match['arch']} {match['name']}"] = {
            "registers": int(match["registers"]),
            "spills": int(match["stores"]) + int(match["loads"]),
            "shared": int(shared[1]) if shared else 0,
        }
    return found


def _demangled(names: list[str], tool: str) -> list[str]:
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def compile_one(command: list[str], output: Path) -> str:
    """Runs a compile command with its output elsewhere and returns what the compiler said."""
    command = [*command[: command.index("-o") + 1], str(output), *command[command.index("-o") + 2 :]]
    done = subprocess.run(command, cwd=output.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nvcc failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout + done.stderr


def measure_all(compiler: str) -> list[dict[str, Any]]:
    """A row for every kernel of every cuda.cu and every architecture."""
    from triton import knobs

    sources = sorted(ROOT.glob("csrc/*/cuda.cu"))
    # nvcc's own packages may come without cuobjdump; Triton's wheel holds it.
    cuobjdump = knobs.nvidia.cuobjdump.path
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        commands = {entry["file"]: entry["command"] for entry in configure(Path(folder) / "build", compiler)}
        for source in sources:
            if str(source) not in commands:
                raise RuntimeError(f"{source.relative_to(ROOT)} is not part of the CMake build")
            output = Path(folder) / "cuda.o"
            kernels = parse(compile_one([*shlex.split(commands[str(source)]), "-Xptxas=-v"], output))
            if not kernels:
                raise RuntimeError(f"ptxas reported no kernel of {source.relative_to(ROOT)}")
            ptx = subprocess.run([cuobjdump, "--list-ptx", output], capture_output=True, text=True, check=True).stdout
            if "sm_90" not in ptx and "compute_90" not in ptx:
                raise RuntimeError(f"{source.relative_to(ROOT)}: the object holds no compute_90 PTX, but {ptx!r}")
            code = disassemble(cuobjdump, output)
            names = _demangled([key.split(" ", 1)[1] for key in kernels], "c++filt")
            for (key, numbers), name in zip(kernels.items(), names, strict=True):
                row = {"op": source.parent.name, "source": "cuda", "kernel": name, "target": key.split(" ", 1)[0]}
                row |= numbers | {"may_spill": "double" in name}
                if row["op"] in FLOORS and (loop := hottest_loop(code[key], ELEMENT)):
                    row |= {"instructions": loop[0], "elements": loop[1], **floor(row["op"], name)}
                rows.append(row)
    return rows
