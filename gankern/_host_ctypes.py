"""`gankern._host` over ctypes, for installs that were built without Python's headers."""

from __future__ import annotations

import ctypes
from pathlib import Path


class Host:
    """The functions of `gankern._host`, from libgankern_core.so."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        for name in ("gankern_isa", "gankern_isa_level"):
            getattr(self._library, name).restype = ctypes.c_char_p
        self._library.gankern_peak_instructions.restype = ctypes.c_double
        self._library.gankern_peak_instructions.argtypes = [ctypes.c_double]

    def isa(self) -> str:
        """The instruction set that kernels run with now."""
        return str(self._library.gankern_isa().decode())

    def isa_supported(self) -> list[str]:
        """The instruction sets that this processor and build can run, lowest first."""
        names: list[bytes] = []
        while (name := self._library.gankern_isa_level(len(names))) is not None:
            names.append(name)
        return [name.decode() for name in names if self._library.gankern_isa_supported(name) == 1]

    def set_isa(self, name: str) -> None:
        """Changes the instruction set for the whole process."""
        done = self._library.gankern_set_isa(name.encode())
        if done < 0:
            raise ValueError(f"set_isa: name must be baseline, avx2 or avx512, got {name!r}")
        if done == 0:
            raise ValueError(f"set_isa: {name} is not supported by this processor or build")

    def peak_instructions(self, seconds: float) -> float:
        """Float vector instructions per lane and second that this thread reaches in registers."""
        return float(self._library.gankern_peak_instructions(seconds))
