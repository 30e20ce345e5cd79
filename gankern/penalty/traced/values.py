"""Values as parts of a key, and the functions and classes that read nothing but their arguments.

torch's and gankern's own code is taken to be as it was imported.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
from collections.abc import Callable
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Untraceable(Exception):
    """Why a critic cannot be traced soundly."""


def words(text: str) -> frozenset[str]:
    """A set of names."""
    return frozenset(text.split())


_ATOMS = (bool, int, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, torch.layout)
_PLAIN = frozenset((*_ATOMS, torch.memory_format, type(...)))
_TRUSTED_MODULES = ("torch.nn.modules.", "gankern.nn.")
_DISTRUSTED = (nn.SyncBatchNorm, nn.modules.lazy.LazyModuleMixin)

_PURE_BUILTINS = ("math", "_operator", *(f"torch._C.{name}" for name in ("_nn", "_fft", "_linalg", "_special")))
_PURE_MODULES = ("torch.nn.functional", "torch.functional")
_PURE_PACKAGES = ("gankern.nn.", "gankern.ops.", "einops.")
#: More of torch: what they read is the same for all graphs, or part of the key.
_PURE = (
    *(torch.is_grad_enabled, torch.get_default_dtype, torch.is_tensor, torch.autograd.grad),
    *(torch.compiler.is_compiling, torch.jit.is_scripting, torch.jit.is_tracing),
)
_IMPURE = ("from_file", "get_device")
_CLASSES = frozenset(
    {
        *(torch.Tensor, nn.Parameter, nn.Module, torch.Size, torch.dtype, torch.device, functools.partial),
        *(torch.no_grad, torch.enable_grad, torch.set_grad_enabled, torch.autocast, torch.cuda.amp.autocast),
    }
)
_CLASS_MODULES = ("builtins", "collections", "collections.abc", "itertools", "abc")


def plain(value: Any, roots: dict[Any, None] | None = None) -> Any:
    """A value as a part of a key; values that differ in type, sign or order differ as keys.

    Args:
        value: anything.
        roots: takes the functions and classes in it that must be followed; without it, there may be none.

    Raises:
        Untraceable: the value cannot be a key.
    """
    kind = type(value)
    if kind in _PLAIN:
        return kind, value
    if kind is float:
        return kind, value.hex()
    if kind is tuple or kind in (list, set, frozenset):
        return kind, *map(plain, value, repeat(roots))
    if kind is dict:
        return kind, *[(plain(k, roots), plain(v, roots)) for k, v in value.items()]
    if kind is functools.partial:
        return kind, *[plain(x, roots) for x in (value.func, value.args, value.keywords, value.__dict__)]
    if isinstance(value, enum.Enum):
        return _member(value)
    if harmless(value) if isinstance(value, type) else pure(value):
        return value
    if roots is not None and (isinstance(value, type) or kind is types.FunctionType):
        roots[value] = None
        cells = getattr(value, "__closure__", None) or ()  # a graph's key must not keep a module alive
        return value, *[plain(contents(cell), roots) for cell in cells]
    raise Untraceable(f"it holds a {kind.__name__}")


def _member(value: enum.Enum) -> Any:
    kind = type(value)
    for owner in kind.__mro__:
        if owner.__module__ in ("enum", "builtins"):
            continue
        if any(k not in kind.__members__ and k[:1] != "_" for k in owner.__dict__):
            raise Untraceable(f"it holds a {kind.__name__}, which has more than members")
    return kind, *[(k, plain(v)) for k, v in value.__dict__.items() if k != "__objclass__"]


def contents(cell: types.CellType) -> Any:
    """What a variable of a closure holds."""
    try:
        return cell.cell_contents
    except ValueError:
        raise Untraceable("its code reads a variable that has no value") from None


def named(value: Any) -> bool:
    """Whether a class is what its module has under its name."""
    return getattr(sys.modules.get(value.__module__), value.__name__, None) is value


def trusted(cls: type) -> bool:
    """Whether a layer's code reads nothing but its attributes."""
    if cls is nn.Module:
        return True
    return cls.__module__.startswith(_TRUSTED_MODULES) and not issubclass(cls, _DISTRUSTED) and named(cls)


def harmless(cls: type) -> bool:
    """Whether a class, called or asked for its attributes, reads nothing that changes."""
    return cls in _CLASSES or trusted(cls) or (cls.__module__ in _CLASS_MODULES and named(cls))


def pure(value: Any) -> bool:
    """Whether a function reads nothing but its arguments and what is part of every key."""
    if isinstance(value, types.BuiltinFunctionType):
        owner = value.__self__
        if isinstance(owner, types.ModuleType):
            return owner.__name__ in _PURE_BUILTINS or value in _PURE
        name = value.__name__
        return getattr(torch._C._VariableFunctions, name, None) == value and name not in _IMPURE
    if not isinstance(value, types.FunctionType):
        return False
    if getattr(F, value.__name__, None) is value and value.__module__ == F.__name__:
        return True
    home = value.__globals__.get("__name__", "")
    return value in _PURE or (
        (home in _PURE_MODULES or home.startswith(_PURE_PACKAGES)) and not value.__closure__ and home in sys.modules
    )


#: Builtins that read their arguments alone. getattr and hasattr may read any attribute.
BUILTINS = words(
    "abs all any bool bytes callable complex dict divmod enumerate filter float frozenset getattr hasattr int "
    "isinstance issubclass iter len list map max min next object pow range reversed round set slice sorted str sum "
    "super tuple type zip True False None NotImplemented Ellipsis __debug__"
)


def builtin(name: str, value: Any) -> bool:
    """Whether a builtin may be used: it reads nothing but its arguments, or is an exception."""
    return name in BUILTINS or (isinstance(value, type) and issubclass(value, BaseException))


Reader = Callable[[], Any]
