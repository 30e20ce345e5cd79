"""A critic's state as a key, and the tensors in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gankern.backend import _forced
from gankern.penalty.traced.code import Facts, check, facts, layer, layers
from gankern.penalty.traced.values import Untraceable, plain

_STRUCTURE = frozenset(("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"))
# They run where a state_dict is made or loaded, not in a forward pass.
_UNRELATED = ("_state_dict", "_load_state_dict", "_is_full_backward_hook")
_PROBE = nn.Module()
_HOOKS = tuple(k for k in _PROBE.__dict__ if k not in _STRUCTURE and not k.startswith(_UNRELATED))
_STANDARD = frozenset(_PROBE.__dict__)


@dataclass
class State:
    """What a walk over a critic found.

    Attributes:
        key: equal for states in which one graph is valid.
        names: of the tensors, dotted, each tensor once.
        tensors: parameters and buffers that the graph takes.
        derived: module and name of each parametrized tensor; the graph takes their values after the tensors.
        sources: parameters and buffers that these values are made of.
        followed: classes and functions that are not torch's or gankern's.
        layers: the classes that are.
        facts: what `followed` depend on.
    """

    key: Any = None
    names: list[str] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    derived: list[tuple[nn.Module, str]] = field(default_factory=list)
    sources: list[Tensor] = field(default_factory=list)
    followed: dict[Any, None] = field(default_factory=dict)
    layers: dict[type, None] = field(default_factory=dict)
    facts: Facts | None = None


def tensor_key(x: Tensor) -> tuple[Any, ...]:
    """What a graph takes for granted about a tensor: everything but its values."""
    if type(x) not in (Tensor, nn.Parameter) or x.layout != torch.strided:
        raise Untraceable(f"it holds a {type(x).__name__} of layout {x.layout}")
    return x.shape, x.stride(), x.dtype, x.device, x.requires_grad


def bare(tensors: Sequence[Tensor]) -> None:
    """Raises Untraceable for tensors with attributes of a user's, which the graph's inputs do not have."""
    if any(map(vars, tensors)) and any(not k.startswith("_dynamo") for x in tensors for k in vars(x)):
        raise Untraceable("it holds a tensor with attributes")


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks that run in a forward or backward pass."""
    attributes = module.__dict__
    for name in _HOOKS:  # noqa: SIM110  # any() takes longer
        if attributes[name]:
            return True
    return False


def fingerprint(critic: nn.Module) -> State:
    """The state of a critic.

    Raises:
        Untraceable: part of it cannot be made a key.
    """
    if nn.modules.module._has_any_global_hook():
        raise Untraceable("a global module hook is registered")
    state = State()
    key: list[Any] = []
    _walk(critic, "", state, key, {}, {})
    if state.followed:
        bare(state.tensors)
        state.facts = facts(state.followed, state.layers)
        key.append(state.facts.key())
    state.key = tuple(key)
    return state


def _walk(
    module: nn.Module, prefix: str, state: State, key: list[Any], modules: dict[int, int], tensors: dict[int, int]
) -> None:
    place = modules.setdefault(id(module), len(modules))
    key.append(place)
    if place + 1 < len(modules):
        return  # a module that is used twice
    attributes = module.__dict__
    kind: Any = type(module)
    if kind not in state.layers and kind not in state.followed:
        kind = _meet(kind, state)
    key += (kind, attributes["training"])
    if has_hooks(module):
        raise Untraceable(f"{prefix or 'the critic '}has hooks")
    if len(attributes) > len(_STANDARD):
        _add_plain(attributes, prefix, state, key)
    for group in (attributes["_parameters"], attributes["_buffers"]):
        for name, x in group.items():
            if x is None:
                key.append(name)
                continue
            at = tensors.setdefault(id(x), len(tensors))
            key += (name, at)
            if at + 1 == len(tensors):
                key += tensor_key(x)
                state.names.append(prefix + name)
                state.tensors.append(x)
    derived = "parametrizations" in attributes["_modules"] and parametrize.is_parametrized(module)
    for name, child in attributes["_modules"].items():
        key.append(name)
        if derived and name == "parametrizations":
            _add_derived(module, child, state, key)
        elif child is not None:
            _walk(child, f"{prefix}{name}.", state, key, modules, tensors)
    key.append(None)


def _meet(kind: type[nn.Module], state: State) -> type:
    """The first module of a class."""
    if kind in layers and layers[kind] is kind.forward:
        state.layers[kind] = None
        return kind
    found = layer(kind)
    if found is None:
        check(kind)
        state.followed[kind] = None
        return kind
    state.layers[found] = None
    return found


def _add_plain(attributes: dict[str, Any], prefix: str, state: State, key: list[Any]) -> None:
    for name, value in attributes.items():
        if name in _STANDARD:
            continue
        try:
            key += (name, plain(value, state.followed))
        except Untraceable as reason:
            raise Untraceable(f"of {prefix}{name}: {reason}") from None


def _add_derived(module: nn.Module, parametrizations: Any, state: State, key: list[Any]) -> None:
    for name, chain in parametrizations.items():
        sources = [*chain.parameters(), *chain.buffers()]
        key += (name, *(tensor_key(x) for x in sources))
        state.derived.append((module, name))
        state.sources += sources


def surroundings(device: torch.device) -> tuple[Any, ...]:
    """What a graph takes for granted about the process.

    Raises:
        Untraceable: something intercepts torch's functions, or the device holds no numbers to compare.
    """
    if device.type == "meta":
        raise Untraceable("meta tensors have no values: a first result cannot be compared with eager's")
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
        raise Untraceable("a mode intercepts torch's functions")
    if torch._C._are_functorch_transforms_active() or torch.is_inference_mode_enabled():
        raise Untraceable("a transform of torch.func or inference mode is active")
    kind = device.type
    return (
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch._C._get_mkldnn_enabled(),
        _forced.name,
    )
