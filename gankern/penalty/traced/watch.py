"""Which functions of Python run while a critic is traced."""

from __future__ import annotations

import contextlib
import gc
import sys
import types
from collections.abc import Iterable, Iterator

from gankern.penalty.traced.values import Untraceable, words

#: Packages that torch calls while it traces. Code of a critic may be in none of them.
_LIBRARIES = sys.stdlib_module_names | {"torch", "sympy", "mpmath", "numpy", "typing_extensions", "triton", "optree"}
#: Those that a critic's own code may call, and those whose callbacks run wherever an object is freed.
_CALLED = words("torch contextlib functools collections _collections_abc typing abc enum weakref _weakrefset")


def busy() -> bool:
    """Whether something else watches: Python has room for one."""
    return sys.getprofile() is not None


@contextlib.contextmanager
def only(codes: Iterable[types.CodeType]) -> Iterator[None]:
    """Within, of code that is not torch's or gankern's, only this may run.

    Raises:
        Untraceable: on leaving, if other code ran.
    """
    followed = {id(x): x for x in codes}
    known = dict(followed)
    strange: list[str] = []

    def watch(frame: types.FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or id(code) in known or code.co_name == "__del__":
            return
        name = frame.f_globals.get("__name__") or ""
        package = name.split(".")[0]
        if name.startswith("gankern.") and not name.startswith(("gankern.models", "gankern.training")):
            known[id(code)] = code
        elif frame.f_back is not None and id(frame.f_back.f_code) in followed:
            if package not in _CALLED:
                strange.append(f"{name}.{code.co_name}")
            elif package == "torch":
                known[id(code)] = code
        elif package in _LIBRARIES or package.startswith("namedtuple_"):
            if package == "torch":
                known[id(code)] = code
        else:
            strange.append(f"{name}.{code.co_name}")

    before, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()  # its callbacks would count
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
        if collecting:
            gc.enable()
    if strange:
        raise Untraceable(f"its forward pass runs {strange[0]}, which cannot be followed")
