"""What a class's forward pass depends on besides attributes of its instances: globals, closures, class attributes.

A graph is valid only as long as nothing that the traced code read has changed. The code of torch's and gankern's own
layers reads their attributes alone. The code of other classes is looked at, instruction by instruction: what it
reads by name becomes part of the key, and code that reads or writes what cannot be followed is not traced.
"""

from __future__ import annotations

import builtins
import dis
import enum
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils import parametrize


class Untraceable(Exception):
    """Why a critic cannot be traced soundly."""


_ATOMS = (bool, int, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, torch.layout)
_PLAIN = frozenset((*_ATOMS, torch.memory_format, type(...)))
_TRUSTED_MODULES = ("torch.nn.modules.", "gankern.nn.")
_TRUSTED_ROOTS = ("torch", "math", "gankern", "builtins", "_operator", "operator")
_DISTRUSTED = (nn.SyncBatchNorm, nn.modules.lazy.LazyModuleMixin)
_BANNED = frozenset(
    ("globals", "locals", "vars", "eval", "exec", "open", "input", "print", "setattr", "delattr", "getattr", "id")
)


def plain(value: Any) -> Any:
    """A value as a part of a key; values that differ in type or sign differ as keys."""
    kind = type(value)
    if kind in _PLAIN:
        return kind, value
    if kind is float:
        return kind, value.hex()
    if kind in (tuple, list):
        return kind, *map(plain, value)
    if kind is dict:
        return kind, *((plain(k), plain(v)) for k, v in value.items())
    if kind in (set, frozenset):
        return kind, frozenset(map(plain, value))
    if isinstance(value, enum.Enum):
        return kind, value.name
    if isinstance(value, type) or (callable(value) and _root(value) in _TRUSTED_ROOTS and _stateless(value)):
        return value
    raise Untraceable(f"it holds a {kind.__name__}")


def _stateless(value: Any) -> bool:
    return isinstance(value, types.BuiltinFunctionType | types.FunctionType) and not getattr(value, "__closure__", None)


def _root(value: Any) -> str:
    return (getattr(value, "__module__", None) or "").split(".")[0]


def trusted(cls: type) -> bool:
    """Whether a layer's code reads nothing but its attributes."""
    return cls.__module__.startswith(_TRUSTED_MODULES) and not issubclass(cls, _DISTRUSTED)


#: Classes of modules found to be trusted: layers of torch and gankern, which are never freed.
_layers: set[type] = set()


Reader = Callable[[], Any]
_known: WeakKeyDictionary[type, tuple[Any, list[Reader]]] = WeakKeyDictionary()


def class_key(cls: type) -> Any:
    """What must stay the same about a module's class for a graph to be valid.

    Raises:
        Untraceable: its code depends on something that cannot be followed.
    """
    if cls in _layers:
        return cls
    if cls.__module__ == parametrize.__name__ and cls.__name__.startswith("Parametrized"):
        cls = cls.__bases__[0]  # torch makes one class for each parametrized module
    if trusted(cls):
        if getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls:
            _layers.add(cls)
        return cls
    forward = cls.__dict__.get("forward") or getattr(cls, "forward", None)
    found = _known.get(cls)
    if found is None or found[0] is not forward:
        found = _known[cls] = forward, list(_Analysis(cls).readers())
    return cls, forward, *[read() for read in found[1]]


class _Analysis:
    """Collects readers of everything that the forward pass of one class reads by name."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        if not issubclass(cls, nn.Module) or cls.__call__ is not nn.Module.__call__:
            raise Untraceable(f"{cls.__name__} is called in its own way")
        if cls.__getattr__ is not nn.Module.__getattr__ or cls.__getattribute__ is not object.__getattribute__:
            raise Untraceable(f"{cls.__name__} looks attributes up in its own way")
        self.seen: set[types.CodeType] = set()

    def readers(self) -> Iterator[Reader]:
        yield from self.attribute("forward")

    def attribute(self, name: str) -> Iterator[Reader]:
        """All that an attribute of this name can mean: any class of the method resolution order may be asked."""
        for owner in self.cls.__mro__:
            if owner in (nn.Module, object) or trusted(owner) or name not in owner.__dict__:
                continue
            member = owner.__dict__[name]
            yield lambda owner=owner: owner.__dict__.get(name)  # type: ignore[misc]
            for function in _functions(member):
                yield from self.function(function)
            if not _functions(member):
                yield lambda owner=owner: plain(owner.__dict__.get(name))  # type: ignore[misc]

    def function(self, function: types.FunctionType) -> Iterator[Reader]:
        if function.__code__ in self.seen:
            return
        self.seen.add(function.__code__)
        yield lambda: function.__code__
        yield lambda: plain((function.__defaults__, function.__kwdefaults__))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                yield from self.value(name, lambda cell=cell: cell.cell_contents)  # type: ignore[misc]
        yield from self.code(function.__code__, function.__globals__)

    def code(self, code: types.CodeType, names: dict[str, Any]) -> Iterator[Reader]:
        for instruction in dis.get_instructions(code):
            what, name = instruction.opname, str(instruction.argval)
            if what in ("LOAD_GLOBAL", "LOAD_NAME"):
                if name in _BANNED:
                    raise Untraceable(f"its code calls {name}()")
                if name in names:
                    yield from self.value(name, lambda name=name: names.get(name))  # type: ignore[misc]
                elif not hasattr(builtins, name):
                    raise Untraceable(f"its code reads {name}, which is not there")
            elif what.startswith(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER")):
                if name == "distributed":
                    raise Untraceable("its code uses torch.distributed")
                yield from self.attribute(name)
            elif what.startswith(("STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF")):
                if what != "STORE_DEREF" or name in code.co_freevars:
                    raise Untraceable(f"its code sets {name}")
            elif what == "IMPORT_NAME" and name.split(".")[0] not in _TRUSTED_ROOTS:
                raise Untraceable(f"its code imports {name}")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from self.code(constant, names)

    def value(self, name: str, read: Reader) -> Iterator[Reader]:
        """A global or a variable of a closure."""
        value = read()
        if isinstance(value, types.ModuleType):
            if value.__name__.split(".")[0] not in _TRUSTED_ROOTS:
                raise Untraceable(f"its code reads the module {value.__name__}")
            yield read
        elif isinstance(value, types.FunctionType) and _root(value) not in _TRUSTED_ROOTS:
            yield read
            yield from self.function(value)
        elif isinstance(value, type) and _root(value) not in _TRUSTED_ROOTS and not issubclass(value, nn.Module):
            raise Untraceable(f"its code uses the class {value.__name__}")
        else:
            try:
                plain(value)
            except Untraceable:
                raise Untraceable(f"its code reads {name}, a {type(value).__name__}") from None
            yield lambda: plain(read())


def _functions(member: Any) -> list[types.FunctionType]:
    if isinstance(member, types.FunctionType):
        return [member]
    if isinstance(member, staticmethod | classmethod):
        return _functions(member.__func__)
    if isinstance(member, property):
        return [f for f in (member.fget,) if isinstance(f, types.FunctionType)]
    return []
