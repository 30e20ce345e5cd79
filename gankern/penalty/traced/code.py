"""What a critic's own code depends on besides the attributes of its modules.

A graph is valid only as long as nothing that the traced code read has changed. The code of torch's and gankern's own
layers reads their attributes alone. All other code that a forward pass can reach is looked at, instruction by
instruction: the globals, closures and defaults that it reads, and every member of a critic's classes whose name occurs
in it, become part of the key. What cannot be followed is not traced, and neither is a critic whose forward pass,
watched while it is traced, runs any code that was not looked at (watch.py).
"""

from __future__ import annotations

import abc
import builtins
import dis
import enum
import functools
import types
import typing
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from gankern.penalty.traced.values import Reader, Untraceable, builtin, contents, harmless, plain, pure, trusted, words

#: Attributes of tensors and modules that a graph's inputs do not have, or not as they are outside of it.
_UNFOLLOWED = frozenset(("grad", "data_ptr", "_version", "grad_fn", "parametrizations"))
_DUNDERS = words("__class__ __name__ __call__ __getitem__ __len__ __iter__ __contains__ __enter__ __exit__")
#: Members that no attribute need name for torch to use them.
_IMPLICIT = ("forward", "_call_impl", "_slow_forward", "_wrapped_call_impl")
#: Special methods that no forward pass may run, and data that none may read.
_IDLE = words(
    "__init__ __new__ __repr__ __str__ __format__ __init_subclass__ __class_getitem__ __setstate__ __getstate__ "
    "__reduce__ __reduce_ex__ __deepcopy__ __copy__ __del__ __dir__ __setattr__ __delattr__ __subclasshook__ "
    "__set_name__ __module__ __doc__ __qualname__ __annotations__ __dict__ __weakref__ __orig_bases__ __parameters__ "
    "__abstractmethods__ __firstlineno__ __static_attributes__ __annotate_func__ __annotations_cache__ "
    "__match_args__ __dataclass_fields__ __dataclass_params__"
)
_LOADS = words(
    "LOAD_CONST LOAD_FAST LOAD_FAST_CHECK LOAD_FAST_AND_CLEAR LOAD_FAST_LOAD_FAST LOAD_FAST_BORROW LOAD_SMALL_INT "
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW LOAD_COMMON_CONSTANT LOAD_SPECIAL LOAD_CLOSURE LOAD_ASSERTION_ERROR "
    "LOAD_GLOBAL LOAD_NAME LOAD_DEREF LOAD_CLASSDEREF LOAD_ATTR LOAD_METHOD LOAD_SUPER_ATTR"
)
_SETS = words("STORE_ATTR STORE_GLOBAL STORE_NAME DELETE_ATTR DELETE_GLOBAL DELETE_NAME")


class Facts:
    """What some classes and functions depend on.

    Attributes:
        guards: how to read each object that was followed, and the object: what else is here holds while they are
            the same.
        fixed: what the followed objects contribute to the key.
        readers: read the rest of the key, which may change in place.
        containers: what readers read.
        codes: all code that may run.
    """

    def __init__(self) -> None:
        self.guards: list[tuple[Reader, Any]] = []
        self.fixed: tuple[Any, ...] = ()
        self.readers: list[Reader] = []
        self.containers: list[Any] = []
        self.codes: list[types.CodeType] = []

    def hold(self) -> bool:
        """Whether everything that was followed is still there."""
        for read, expected in self.guards:  # noqa: SIM110  # all() takes longer
            if read() is not expected:
                return False
        return True

    def key(self) -> tuple[Any, ...]:
        """Equal as long as the code does the same with the same attributes."""
        return self.fixed, *[plain(read()) for read in self.readers]


_known: OrderedDict[Any, Facts] = OrderedDict()
_refused: OrderedDict[Any, str] = OrderedDict()
_KEPT = 256


def facts(roots: Iterable[Any], layers: Iterable[type]) -> Facts:
    """What functions and classes of modules, and the layers of torch and gankern beside them, depend on.

    Raises:
        Untraceable: the code depends on something that cannot be followed.
    """
    roots, layers = tuple(roots), tuple(layers)
    found = _known.get((roots, layers))
    if found is not None and found.hold():
        return found
    again = tuple(weakref.ref(x) for r in (*roots, *layers) for x in (r, getattr(r, "forward", r)))
    if again in _refused:  # until a forward method changes: refusing is always right
        raise Untraceable(_refused[again])
    try:
        found = _known[roots, layers] = _Analysis(roots, layers).facts
    except Untraceable as reason:
        _refused[again] = str(reason)
        raise
    finally:
        for cache in (_known, _refused):
            if len(cache) > _KEPT:
                cache.popitem(last=False)
    return found


#: Layers of torch and gankern found to be trusted, and their forward methods.
layers: dict[type, Any] = {}


def layer(cls: type) -> type | None:
    """The trusted class that a module of this class runs, if it is one."""
    if cls.__module__ == parametrize.__name__ and cls.__name__.startswith("Parametrized"):
        cls = cls.__bases__[0]  # torch makes one class for each parametrized module
    forward: Any = cls.forward  # type: ignore[attr-defined]
    if not trusted(cls) or not getattr(forward, "__module__", "").startswith(("torch.nn.", "gankern.nn.")):
        return None
    layers[cls] = forward
    return cls


def check(cls: type[nn.Module]) -> None:
    """Raises Untraceable for modules that are called, or look their attributes up, in their own way."""
    if cls.__call__ is not nn.Module.__call__:
        raise Untraceable(f"{cls.__name__} is called in its own way")
    if cls.__getattr__ is not nn.Module.__getattr__ or cls.__getattribute__ is not object.__getattribute__:
        raise Untraceable(f"{cls.__name__} looks attributes up in its own way")


class _Analysis:
    """Follows everything that can run in a forward pass."""

    def __init__(self, roots: tuple[Any, ...], layers: tuple[type, ...]) -> None:
        self.facts = Facts()
        self.fixed: list[Any] = []
        self.names: set[str] = set(_IMPLICIT)
        self.any_name = False
        self.owners: dict[type, bool] = {}  # whether it is trusted
        self.done: set[Any] = set()
        for root in (*roots, *layers):
            if isinstance(root, type):
                self.cls(root)
            else:
                self.function(root)
        before = -1
        while before != len(self.done):  # each member may name others
            before = len(self.done)
            for owner in list(self.owners):
                self.members(owner)
        if self.any_name:
            for constant in (x for code in self.facts.codes for x in code.co_consts if isinstance(x, str)):
                self.attribute(constant)
        self.facts.fixed = tuple(self.fixed)

    def guard(self, read: Reader, expected: Any, *key: Any) -> None:
        self.facts.guards.append((read, expected))
        self.fixed += key

    def cls(self, cls: type) -> None:
        """A class of modules, or one that code refers to."""
        if cls in self.done:
            return
        self.done.add(cls)
        self.guard(lambda: cls.__mro__, cls.__mro__, cls)
        if issubclass(cls, nn.Module):
            check(cls)
        for owner in cls.__mro__:
            if owner in self.owners or owner is typing.Generic:
                continue
            if trusted(owner):
                self.owners[owner] = True
            elif not harmless(owner):
                self.owner(owner)

    def owner(self, owner: type) -> None:
        """A class that is not torch's."""
        if type(owner) not in (type, abc.ABCMeta) or issubclass(owner, torch.autograd.Function):
            raise Untraceable(f"its code uses the class {owner.__name__}")
        members = owner.__dict__
        values = list(members.values())
        if any(isinstance(x, types.MemberDescriptorType) for x in values):
            raise Untraceable(f"the class {owner.__name__} has slots")
        self.owners[owner] = False
        names, ids = list(members), [*map(id, values)]
        same = lambda: values if [*map(id, members.values())] == ids and [*members] == names else None  # noqa: E731
        self.guard(same, values)

    def members(self, owner: type) -> None:
        """Those that some code names, and special methods."""
        theirs = self.owners[owner]
        for name, member in list(owner.__dict__.items()):
            special = not theirs and (self.any_name or name[:2] == "__")
            if name in _IDLE or (owner, name) in self.done or not (special or name in self.names):
                continue
            self.done.add((owner, name))
            functions = _functions(member)
            if theirs:
                self.names.update(*(_names(f.__code__) for f in functions))
                continue
            self.fixed += (owner, name, type(member))
            for function in functions:
                self.fixed.append(function)
                self.function(function)
            if not functions:
                self.value(name, functools.partial(owner.__dict__.get, name))

    def function(self, function: types.FunctionType) -> None:
        if function in self.done or pure(function):
            return
        self.done.add(function)
        home = function.__globals__.get("__name__", "")
        if home.split(".")[0] == "torch":
            raise Untraceable(f"its code calls {home}.{function.__name__}")
        code, defaults, words = function.__code__, function.__defaults__, function.__kwdefaults__
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        self.guard(lambda: function.__code__, code, code)
        self.guard(lambda: function.__defaults__, defaults, len(defaults or ()))
        self.guard(lambda: function.__kwdefaults__, words)
        self.guard(lambda: len(function.__dict__), len(function.__dict__))
        for k in range(len(defaults or ())):
            self.value("a default", functools.partial((defaults or ()).__getitem__, k))
        for held in (words or {}, function.__dict__):
            for name in held:
                self.value(name, functools.partial(held.get, name), name)
        self.code(code, function.__globals__, cells)

    def code(self, code: types.CodeType, names: dict[str, Any], cells: dict[str, types.CellType]) -> None:
        self.facts.codes.append(code)
        steps = iter([s for s in dis.get_instructions(code) if s.opname not in ("EXTENDED_ARG", "CACHE")])
        for step in steps:
            what, name = step.opname, str(step.argval)
            if what in ("LOAD_GLOBAL", "LOAD_NAME"):
                if name in names:
                    self.value(*self.chain(name, functools.partial(names.get, name), steps))
                else:
                    self.builtin(name, names)
            elif what in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
                if name in cells:
                    self.value(*self.chain(name, functools.partial(contents, cells[name]), steps))
            elif what in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                self.attribute(name)
                self.names.add(name)
            elif what.startswith("IMPORT") or (what.startswith("LOAD") and what not in _LOADS):
                raise Untraceable(f"its code imports {name}" if what[0] == "I" else f"its code runs {what}")
            elif what in _SETS or (what in ("STORE_DEREF", "DELETE_DEREF") and name in cells):
                raise Untraceable(f"its code sets {name}")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant, names, cells)

    def attribute(self, name: str) -> None:
        if name in _UNFOLLOWED or (name[:2] == name[-2:] == "__" and name not in _DUNDERS):
            raise Untraceable(f"its code reads {name}")

    def builtin(self, name: str, names: dict[str, Any]) -> None:
        value = getattr(builtins, name, None)
        if not builtin(name, value):
            raise Untraceable(f"its code calls {name}()" if value else f"its code reads {name}, which is not there")
        self.any_name |= name in ("getattr", "hasattr")
        self.guard(lambda: names.get(name, builtins.__dict__.get(name)), value)

    def chain(self, name: str, read: Reader, steps: Iterator[dis.Instruction]) -> tuple[str, Reader]:
        """Where a variable holds a module of Python or an enumeration: what the code reads of it."""
        value = read()
        while isinstance(value, types.ModuleType | enum.EnumMeta):
            step = next(steps, None)
            if step is None or step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                raise Untraceable(f"its code uses {value.__name__} as a value")
            name, full = str(step.argval), f"{value.__name__}.{step.argval}"
            inside = value.__dict__ if isinstance(value, types.ModuleType) else value._member_map_
            if name not in inside:
                raise Untraceable(f"its code reads {full}, which is not there")
            self.guard(read, value)
            read, name = functools.partial(inside.get, name), full
            value = read()
        return name, read

    def value(self, name: str, read: Reader, *key: Any) -> None:
        """What a variable, a default or a member of a class holds."""
        value = read()
        kind = type(value)
        if kind in (list, dict, set, tuple, frozenset):  # what they hold may change
            self.facts.readers.append(lambda: plain(read()))
            self.facts.containers.append(value)
        key = (*key, self.part(name, value))
        self.guard(read, value, *key)
        if kind is types.FunctionType:
            self.function(value)
        elif isinstance(value, type) and not harmless(value):
            self.cls(value)
        elif kind is functools.partial:
            for part in ("func", "args", "keywords"):
                self.value(name, functools.partial(getattr, value, part))

    def part(self, name: str, value: Any) -> Any:
        if isinstance(value, types.FunctionType | type | functools.partial):
            return value
        try:
            found = plain(value)
        except Untraceable:
            raise Untraceable(f"its code reads {name}, a {type(value).__name__}") from None
        return type(value) if isinstance(value, list | dict | set) else found


def _functions(member: Any) -> list[types.FunctionType]:
    if isinstance(member, types.FunctionType):
        return [member]
    if isinstance(member, staticmethod | classmethod):
        return _functions(member.__func__)
    if isinstance(member, property):
        return _functions(member.fget)
    return []


def _names(code: types.CodeType) -> set[str]:
    """All names in trusted code, which may be attributes."""
    return set(code.co_names).union(*(_names(x) for x in code.co_consts if isinstance(x, types.CodeType)))
