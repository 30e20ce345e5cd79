"""The GANKERN_* variables, read once at import. What is wrong with them is raised by the first op that is called.

An import never fails for a misspelt variable: `gankern info` and `gankern.info()["warnings"]` say what is wrong.
"""

from __future__ import annotations

import os

from gankern import _libraries

BACKENDS = ("native", "triton", "cuda", "reference")
AUTO = "auto"


def _one_of(variable: str, allowed: tuple[str, ...], problems: list[str]) -> str:
    """The variable's value if it is allowed, else the first allowed one, which is what an empty variable means."""
    value = os.environ.get(variable, "") or allowed[0]
    if value in allowed:
        return value
    problems.append(f"{variable}: expected {', '.join(name for name in allowed if name)}; got {value!r}")
    return allowed[0]


_problems: list[str] = []

#: The backend when none is forced in the code.
default_backend = _one_of("GANKERN_BACKEND", (AUTO, *BACKENDS), _problems)

#: Whether a CPU op that cannot run native raises instead of falling back.
require_native = _one_of("GANKERN_REQUIRE_NATIVE", ("0", "1"), _problems) == "1"

#: The instruction set is chosen by the native library, which reads the variable itself; so is the memory it keeps.
_isa = _one_of("GANKERN_ISA", ("", "baseline", "avx2", "avx512"), _problems)
if _isa and _libraries.host and _isa not in _libraries.host.isa_supported():
    _problems.append(f"GANKERN_ISA: {_isa} is not supported by this processor or build")
_mebibytes = os.environ.get("GANKERN_KEEP_MEMORY", "")
if _mebibytes and not (_mebibytes.isascii() and _mebibytes.isdigit() and int(_mebibytes) <= 1 << 20):
    _problems.append(f"GANKERN_KEEP_MEMORY: expected 0 to {1 << 20}, in MiB; got {_mebibytes!r}")

#: What is wrong, each with the variable's name, what was expected and what came.
problems: tuple[str, ...] = tuple(_problems)

#: The same as one line; empty if nothing is wrong.
complaint = "; ".join(problems)
