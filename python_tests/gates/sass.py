"""Reads loops out of NVIDIA machine code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", re.MULTILINE)
_BRANCH = re.compile(r"\bBRA\S*\s+(?:\S+,\s*)?0x([0-9a-f]+)")
_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)


def disassemble(tool: str, binary: Path) -> dict[str, str]:
    """The SASS of each kernel in a cubin or object file, by mangled name and architecture."""
    text = subprocess.run([tool, "-sass", str(binary)], capture_output=True, text=True, check=True).stdout
    found = {}
    for part in re.split(r"^Fatbin elf code:$", text, flags=re.MULTILINE):
        arch = re.search(r"^\s*(?:arch = |code for )(sm_\d+)", part, re.MULTILINE)
        pieces = _FUNCTION.split(part)
        for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
            found[f"{arch[1] if arch else ''} {name}"] = body
    return found


def hottest_loop(sass: str, element: str) -> tuple[int, int] | None:
    """Instructions and elements of the loop that does the work, or None if no loop matches `element`.

    That is, of the loops that handle most elements at once and hold no other that handles any, the one with fewest
    instructions: kernels have a second copy of their loop for the edges.
    """
    code = [(int(at, 16), text) for at, text in _INSTRUCTION.findall(sass)]
    loops = []
    for at, text in code:
        branch = _BRANCH.search(text)
        if branch and int(branch[1], 16) <= at:
            body = [line for line in code if int(branch[1], 16) <= line[0] <= at]
            count = len(re.findall(element, "\n".join(line for _, line in body)))
            if count:
                loops.append((body[0][0], at, len(body), count))
    inner = [
        loop
        for loop in loops
        if not any(other is not loop and loop[0] <= other[0] and other[1] <= loop[1] for other in loops)
    ]
    if not inner:
        return None
    most = max(loop[3] for loop in inner)
    return min(loop[2] for loop in inner if loop[3] == most), most
