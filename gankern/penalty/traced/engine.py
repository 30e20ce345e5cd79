"""Which graph runs when, and the Function around it that autograd sees."""

from __future__ import annotations

import copy
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree

from gankern.penalty._critic import Critic
from gankern.penalty.traced.code import Untraceable, plain
from gankern.penalty.traced.fingerprint import State, fingerprint, has_hooks, surroundings, tensor_key

#: Value times a factor, norms and scores at some points, as the other engines compute them.
Result = tuple[Tensor, Tensor, Sequence[Tensor]]
Evaluate = Callable[[Critic, Sequence[Tensor], float], Result]

#: How often "auto" must see a key before it traces; and how many keys of a critic are kept.
PATIENCE = 3
KEYS = 8


@dataclass
class Entry:
    """What is known about one key of a critic."""

    sights: int = 0
    run: Callable[..., Sequence[Tensor]] | None = None
    leaves: list[int] = field(default_factory=list)
    reached: list[int] = field(default_factory=list)
    refused: str = ""


@dataclass
class Memory:
    """What is known about one critic. It must not refer to the critic, which would then never be freed."""

    entries: OrderedDict[Any, Entry] = field(default_factory=OrderedDict)
    warned: bool = False
    latest: tuple[Any, Entry] | None = None

    def entry(self, key: Any) -> Entry:
        """The entry of a key, now the most recent one."""
        if self.latest is not None and self.latest[0] == key:  # quicker than to hash a long key
            return self.latest[1]
        found = self.entries.get(key)
        if found is None:
            found = self.entries[key] = Entry()
            if len(self.entries) > KEYS:
                self.entries.popitem(last=False)
        self.entries.move_to_end(key)
        self.latest = key, found
        return found


_memories: WeakKeyDictionary[nn.Module, Memory] = WeakKeyDictionary()


class Traced(torch.autograd.Function):
    """The value and the norms; the value's gradients, computed with them, wait for backward."""

    @staticmethod
    def forward(ctx: Any, entry: Entry, factor: float, inputs: list[Tensor], *leaves: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the graph, which contains autocast's casts and needs no autograd."""
        assert entry.run is not None
        with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableAutocast():
            value, norms, *gradients = entry.run(*inputs)
            value = value * factor
        if len(gradients) < len(leaves):  # zero for what the critic uses and the penalty does not depend on
            found = dict(zip(entry.reached, gradients, strict=True))
            gradients = [
                found[k] if k in found else torch.zeros_like(x) for k, x in zip(entry.leaves, leaves, strict=True)
            ]
        ctx.gradients, ctx.factor = gradients, factor
        ctx.mark_non_differentiable(norms)
        return value, norms

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        """The gradients, scaled; NaN all over if grad is."""
        return (_scaled_once if torch.is_grad_enabled() else _scaled)(ctx, grad)


def _scaled(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return None, None, None, *(torch._foreach_mul(ctx.gradients, grad * ctx.factor) if ctx.gradients else ())


_scaled_once = once_differentiable(_scaled)  # it takes longer


def attempt(
    critic: Critic, points: Sequence[Tensor], settings: tuple[Any, ...], evaluate: Evaluate, factor: float
) -> Result | None:
    """The penalty by a graph, whose gradients reach all parameters, or None if another engine must compute it.

    Args:
        critic: with its engine: "auto" traces at the third sight of a key and falls back silently; "traced" and
            "compiled" trace at once and warn when they cannot.
        points: the points, leaves that require grad.
        settings: all else that the value depends on.
        evaluate: the value times a factor, norms and scores of a critic at points.
        factor: for the value; no part of the graph.
    """
    module = _original(critic.function)
    if not isinstance(module, nn.Module):
        _refuse(critic, None, "the critic is a function, not a module")
        return None
    memory = _memories.get(module)
    if memory is None:
        memory = _memories[module] = Memory()
    try:
        tensors, arguments, spec = _arguments(critic)
        state = fingerprint(module)
        output = critic.output if isinstance(critic.output, int | str | None) else plain(critic.output)
        key = (
            *(critic.engine == "compiled", settings, output, spec, state.key),
            *(tensor_key(x)[:4] for x in points),
            *(tensor_key(x) for x in tensors),
            surroundings(points[0].device),
        )
    except Untraceable as reason:
        _refuse(critic, memory, str(reason))
        return None
    entry = memory.entry(key)
    entry.sights += 1
    if entry.refused:
        _refuse(critic, memory, entry.refused)
        return None
    if entry.run is None:
        if critic.engine == "auto" and entry.sights < PATIENCE:
            return None
        found = _first(critic, module, state, points, (tensors, arguments), entry, evaluate, factor)
        if entry.refused:
            _refuse(critic, memory, entry.refused)
        return found
    try:
        return _run(entry, state, points, tensors, factor)
    except Exception as error:
        entry.run, entry.refused = None, _one_line(error)
    _refuse(critic, memory, entry.refused)
    return None


def _original(function: Any) -> Any:
    """The module that torch.compile wrapped, where the wrapper adds nothing; else what is given."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None or type(function) is not dynamo.OptimizedModule or has_hooks(function):
        return function
    return function._orig_mod


def _arguments(critic: Critic) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any], Any]:
    """The tensors among a critic's further arguments, how to put others into their places, and a key of the rest."""
    if not critic.args and not critic.kwargs:
        return [], lambda given: ((), {}), None
    leaves, spec = _pytree.tree_flatten((tuple(critic.args), dict(critic.kwargs)))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    rest = [None if isinstance(x, Tensor) else x for x in leaves]
    places = [k for k, x in enumerate(leaves) if isinstance(x, Tensor)]

    def rebuild(given: Sequence[Tensor]) -> Any:
        filled = list(rest)
        for k, x in zip(places, given, strict=True):
            filled[k] = x
        return _pytree.tree_unflatten(filled, spec)

    return tensors, rebuild, (plain(rest), tuple(places), str(spec))


def _run(entry: Entry, state: State, points: Sequence[Tensor], tensors: Sequence[Tensor], factor: float) -> Result:
    flat = [*points, *tensors, *state.tensors, *(getattr(m, n) for m, n in state.derived)]
    leaves = [flat[k] for k in entry.leaves]
    value, norms = super(torch.autograd.Function, Traced).apply(entry, factor, flat, *leaves)
    return value, norms, ()


def _first(
    critic: Critic,
    module: nn.Module,
    state: State,
    points: Sequence[Tensor],
    arguments: tuple[list[Tensor], Callable[..., Any]],
    entry: Entry,
    evaluate: Evaluate,
    factor: float,
) -> Result | None:
    """Traces, runs the graph and eager from one state, and gives eager's result; refuses a graph that differs."""
    from gankern.penalty.traced.trace import Inputs, finish, trace

    tensors, rebuild = arguments
    before = _Snapshot(state, points[0].device)
    attributes = _Attributes(module)
    try:
        with torch.no_grad():
            derived = [getattr(m, n) for m, n in state.derived]
        for x, (m, n) in zip(derived, state.derived, strict=True):
            x.requires_grad_(any(p.requires_grad for p in m.parametrizations[n].parameters()))  # type: ignore
        stub = replace(critic, engine="pruned", args=(), kwargs={})
        graph = trace(
            module,
            state,
            Inputs(points, tensors, state.tensors, derived),
            rebuild,
            lambda function, at: evaluate(replace(stub, function=function), at, 1.0),
        )
        entry.leaves, entry.reached = graph.leaves, graph.reached
        entry.run = finish(graph, critic.engine == "compiled")
        before.restore()
        mine = _with_gradients(_run(entry, state, points, tensors, factor), state, tensors)
        after = [x.clone() for x in before.now()]
    except Exception as error:
        entry.run, entry.refused = None, _one_line(error)
    if attributes.restore():
        entry.run, entry.refused = None, "its forward pass changes attributes"
    before.restore()
    if entry.refused:
        return None
    eager = evaluate(replace(critic, engine="eager"), points, factor)
    theirs = _with_gradients(eager, state, tensors)
    if not theirs[0].isfinite():
        entry.run = None  # nothing to compare with: the next time will do
    elif reason := _difference([*mine, *after], [*theirs, *before.now()]):
        entry.run, entry.refused = None, reason
    return eager


class _Snapshot:
    """Buffers and random states, to be put back."""

    def __init__(self, state: State, device: torch.device) -> None:
        self.held = [x for x in (*state.tensors, *state.sources) if not isinstance(x, nn.Parameter)]
        self.values = [x.detach().clone() for x in self.held]
        self.device = device
        self.random = torch.get_rng_state()
        self.device_random = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def now(self) -> list[Tensor]:
        """The buffers."""
        return [x.detach() for x in self.held]

    def restore(self) -> None:
        """Puts everything back. To graphs that saved a buffer, as batch_norm's do, nothing has happened."""
        for x, value in zip(self.held, self.values, strict=True):
            if not torch.equal(x, value):
                x.data.copy_(value)
        torch.set_rng_state(self.random)
        if self.device_random is not None:
            torch.cuda.set_rng_state(self.device_random, self.device)


_CONTAINERS = (list, dict, set)


def _contents(value: Any) -> Any:
    return [*map(id, value)] if isinstance(value, _CONTAINERS) else id(value)


class _Attributes:
    """The attributes of a critic's modules, to be put back after fake tensors went through its forward pass."""

    def __init__(self, module: nn.Module) -> None:
        self.before = [(m.__dict__, dict(m.__dict__)) for m in module.modules()]
        self.contents = [
            (v, copy.copy(v))
            for d, _ in self.before
            for k, v in d.items()
            if isinstance(v, _CONTAINERS) and k[0] != "_"
        ]

    def restore(self) -> bool:
        """Whether anything had changed."""
        changed = False
        for now, before in self.before:
            if now.keys() != before.keys() or any(now[k] is not before[k] for k in before):
                now.clear()
                now.update(before)
                changed = True
        for value, former in self.contents:
            if _contents(value) != _contents(former):
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(former)
                changed = True
        return changed


def _with_gradients(result: Result, state: State, tensors: Sequence[Tensor]) -> list[Tensor]:
    value, norms, _ = result
    sources = [x for x in (*state.tensors, *state.sources, *tensors) if x.requires_grad]
    if not value.requires_grad:
        return [value.detach(), norms]
    found = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
    return [
        value.detach(),
        norms,
        *(torch.zeros_like(x) if g is None else g for x, g in zip(sources, found, strict=True)),
    ]


def _difference(mine: list[Tensor], theirs: list[Tensor]) -> str:
    """Where two results differ by more than the order of sums explains, if they do."""
    scale = max(float(x.double().norm()) for x in theirs[2:]) if len(theirs) > 2 else 0.0
    for k, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        half = a.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(a.device.type)
        bound = 0.1 if half else 1e-8 if a.dtype == torch.float64 else 1e-4
        error = float((a.double() - b.double()).norm())
        if not error <= bound * (float(b.double().norm()) + 1e-2 * scale * (k > 1)) + 1e-30:
            return "its first result differs from eager's"
    return ""


def _refuse(critic: Critic, memory: Memory | None, reason: str) -> None:
    """Warns, once for each critic, that an engine that was asked for cannot be had."""
    if critic.engine == "auto" or (memory is not None and memory.warned):
        return
    if memory is not None:
        memory.warned = True
    warn(f"{critic.op}: engine {critic.engine!r} cannot trace this critic: {reason}; engine 'pruned' runs instead")


def warn(message: str) -> None:
    """Warns the code that called gankern, however far up it stands."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("gankern", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if isinstance(error, Untraceable) and text else f"{type(error).__name__}: {(text or [''])[0]}"
