"""Ctrl-C while the `gankern` command still imports: it ends with exit code 130 and no traceback.

The package imports this first, because everything after takes a second. In any other program it does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def _is_the_command() -> bool:
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m":  # its module's name is not in argv yet
        after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
        return after[:1] in (["gankern"], ["gankern.cli"])
    return os.path.basename(program) in ("gankern", "gankern.exe")


def _end(number: int, frame: Any) -> None:
    os._exit(130)


def imported() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_the_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
