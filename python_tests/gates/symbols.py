"""Symbols of the objects compiled once per ISA, and flags that must not be there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = (
    "-ffast-math",
    "-Ofast",
    "-march=native",
    "-funsafe-math-optimizations",
    "--use_fast_math",
    "-use_fast_math",
)


def build_folder() -> Path:
    """Where setup.py builds."""
    return Path(os.environ.get("GANKERN_BUILD_DIR") or ROOT / "build/cmake").resolve()


def isa_objects() -> dict[str, list[Path]]:
    """Object files by ISA level."""
    found = {}
    for folder in sorted((build_folder() / "CMakeFiles").glob("gankern_core_*.dir")):
        found[folder.name.removeprefix("gankern_core_").removesuffix(".dir")] = sorted(folder.rglob("*.o"))
    return found


def weak(path: Path) -> list[str]:
    """Weak and unique symbols of an object: those that the linker may merge with another object's."""
    text = subprocess.run(["nm", "--demangle", str(path)], capture_output=True, text=True, check=True).stdout
    lines = [line[16:].split(None, 1) for line in text.splitlines()]
    return [name for kind, name in lines if kind in "WwVvu"]


def forbidden_flags(commands: list[dict[str, str]]) -> list[str]:
    """Compile commands with a flag that changes arithmetic everywhere or ties a binary to this processor."""
    return [
        f"{Path(entry['file']).name}: {flag}"
        for entry in commands
        for flag in FORBIDDEN
        if flag in entry["command"].split()
    ]


def compile_commands() -> list[dict[str, str]]:
    """What the build runs, file by file."""
    return json.loads((build_folder() / "compile_commands.json").read_text())
